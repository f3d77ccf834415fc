/** What a model takes of GPU memory beside its weights, its KV cache and the slots of its experts: bounds, known before anything is made. */
import { pagePositions } from '../../../kernels/layout.js'
import type { Plan } from '../../../model/plan.js'
import { expertScratchBytes } from '../experts/scratch.js'
import { maskWords } from '../launches/route.js'
import type { ArenaSizes } from './arena.js'
import { arenaBytes, roundUp, routeOps } from './arena.js'
import { mostForeseenRows } from './foresight.js'
import { routingOf } from './model.js'
import { outcomeBytes } from './outcome.js'
import { ropeOps } from './rotations.js'
import { mostShapes } from './shapes.js'
import { layoutOf } from './step-data.js'

/** A pooled buffer is up to a quarter larger than what is read through it. */
const pooledTimes = 1.25

/** What a step of a plan needs. */
export function sizesOf(plan: Plan, maxBatchTokens: number): ArenaSizes {
  const rows = new Map(plan.tensors.map(({ name, shape }) => [name, shape[1] ?? 0]))
  const routers = routeOps(plan).map(({ weight, hser }) =>
    [weight, hser?.groupRouter, hser?.tierRouter].reduce((sum, name) => sum + (name ? (rows.get(name) ?? 0) : 0), 0)
  )
  return { plan, maxBatchTokens, routing: routingOf(plan), routerRows: Math.max(0, ...routers) }
}

/** Launches that an operation of a plan becomes, at most, and the bytes of each one's params. */
const [launchesOfOp, paramsBytes] = [8, 256]

/** What the shapes of steps take that are kept: each one's data and params, and what tells the routes of the next layer. */
function shapesBytes({ plan, routing, maxBatchTokens: rows }: ArenaSizes, alignment: number): number {
  const { layers, experts, k } = routing
  const rotations = ropeOps(plan).map(({ rotaryDim }) => rotaryDim)
  const pages = 2 * (rows + Math.ceil(plan.contextLength / pagePositions))
  const data = layoutOf({ rows, pages, maskWords: layers * maskWords(experts), rotations }, alignment).bytes
  const widest = Math.max(...Object.values(plan.buffers))
  const foreseen = layers > 0 ? mostForeseenRows * (widest + 2 * k) * 4 + alignment : 0
  return mostShapes * (data + foreseen + plan.ops.length * launchesOfOp * paramsBytes)
}

/** What the routers of hierarchical layers take a second time, one behind another. */
const stackedRouterBytes = ({ plan, routerRows }: ArenaSizes): number =>
  routeOps(plan).reduce((sum, op) => sum + (op.hser ? routerRows * (plan.buffers[op.in] as number) * 4 : 0), 0)

/** With logits of up to 32 rows: `forward({ logits: 'all' })` of more takes more while it runs. */
export function stepBytes(plan: Plan, maxBatchTokens: number, alignment: number): number {
  const sizes = sizesOf(plan, maxBatchTokens)
  const { layers, experts, k } = sizes.routing
  const layerChoices = roundUp(maxBatchTokens * k * 4, alignment)
  const slotTable = layers * roundUp(experts * 4, alignment)
  const readBack = Math.ceil(pooledTimes * (outcomeBytes(sizes, alignment) + layerChoices))
  const beside = shapesBytes(sizes, alignment) + stackedRouterBytes(sizes) + 2 * layers * layerChoices
  return arenaBytes(sizes, alignment) + expertScratchBytes(plan, maxBatchTokens) + slotTable + readBack + beside
}

/**
 * A plan's operations as a step runs them: a product whose rows are queries, keys and values, with all that is done to these up to their
 * attention, is one operation, because each launch costs the JavaScript thread some microseconds.
 */
import type { OpOf, Plan, PlanOp } from '../../../model/plan.js'
import type { HeadsShape } from '../launches/heads.js'
import { rotationKey } from './rotations.js'

/** [queries, keys, values] = W · in, side by side; queries and keys normalised and rotated; attention. */
export interface HeadsOp {
  op: 'heads'
  product: OpOf<'matmul'>
  norm: { queries: string; keys: string; of: 'head' | 'row'; epsilon: number } | undefined
  rope: OpOf<'rope'>
  attention: OpOf<'attention'>
  /** Where keys and values begin in a row of the product, and its floats. */
  place: HeadsShape['place']
}

export interface StepOp {
  op: PlanOp | HeadsOp
  /** The layer that its failures are reported of: that of the next attention or experts; the plan's number of layers behind the last. */
  layer: number
}

/** Operations from `at` on that work on `names` in place, in this order: one on each or none. */
function inPlace<Name extends 'rmsNorm' | 'rope'>(plan: Plan, at: number, kind: Name, names: string[]): OpOf<Name>[] {
  const found = names.map((name, i) => {
    const op = plan.ops[at + i]
    if (op?.op === 'rmsNorm') return op.op === kind && op.in === name && op.out === name
    return op?.op === 'rope' && op.op === kind && op.buffer === name
  })
  return found.every((is) => is) ? (plan.ops.slice(at, at + names.length) as OpOf<Name>[]) : []
}

/** Which runs of numbers are normalised together; undefined where the kernel has no such form. */
function runsOf(
  plan: Plan,
  [q, k]: OpOf<'rmsNorm'>[],
  { heads, kvHeads, headDim }: OpOf<'attention'>
): 'head' | 'row' | undefined {
  const count = (norm: OpOf<'rmsNorm'> | undefined) => plan.tensors.find(({ name }) => name === norm?.weight)?.shape[0]
  const [ofQueries, ofKeys] = [count(q), count(k)]
  if (q?.epsilon !== k?.epsilon) return undefined
  if (ofQueries === headDim && ofKeys === headDim) return 'head'
  return ofQueries === heads * headDim && ofKeys === kvHeads * headDim ? 'row' : undefined
}

/** Whether anything but these operations reads the buffer. */
const isReadBy = (plan: Plan, name: string, but: readonly PlanOp['op'][]): boolean =>
  plan.ops.some((op) => 'in' in op && op.in === name && !but.includes(op.op))

/** The operation that begins with the plan's operation `at`, and how many of the plan's it is; undefined where that is none. */
function headsAt(plan: Plan, at: number): { op: HeadsOp; count: number } | undefined {
  const product = plan.ops[at]
  if (product?.op !== 'matmul' || product.add || product.parts.length !== 3) return undefined
  if (product.parts.some(({ bias }) => bias)) return undefined
  const [q, k, v] = product.parts.map(({ out }) => out) as [string, string, string]
  const norms = inPlace(plan, at + 1, 'rmsNorm', [q, k])
  const [rope, other] = inPlace(plan, at + 1 + norms.length, 'rope', [q, k])
  const count = norms.length + 4
  const attention = plan.ops[at + count - 1]
  if (!rope || !other || attention?.op !== 'attention') return undefined
  const { heads, kvHeads, headDim } = attention
  const same = rotationKey(rope) === rotationKey(other) && rope.pairs === other.pairs
  const sizes = rope.heads === heads && other.heads === kvHeads && rope.headDim === headDim && other.headDim === headDim
  const fits = sizes && !rope.offset && !other.offset && norms.every(({ runs }) => runs === undefined)
  const taken = attention.q === q && attention.k === k && attention.v === v
  if (!same || !fits || !taken || isReadBy(plan, k, ['rmsNorm']) || isReadBy(plan, v, [])) return undefined
  const of = norms.length > 0 ? runsOf(plan, norms, attention) : undefined
  if (norms.length > 0 && !of) return undefined
  const [queries, keys] = norms
  const norm: HeadsOp['norm'] =
    queries && keys && of ? { queries: queries.weight, keys: keys.weight, of, epsilon: queries.epsilon } : undefined
  const [first, second, third] = [q, k, v].map((name) => plan.buffers[name] as number) as [number, number, number]
  const place = { k: first, v: first + second, stride: first + second + third }
  return { op: { op: 'heads', product, norm, rope, attention, place }, count }
}

export function stepOps(plan: Plan): StepOp[] {
  const layers = new Array<number>(plan.ops.length).fill(plan.layers)
  let layer = plan.layers
  for (let i = plan.ops.length - 1; i >= 0; i--) {
    const op = plan.ops[i] as PlanOp
    if (op.op === 'attention' || op.op === 'experts') layer = op.layer
    layers[i] = layer
  }
  const ops: StepOp[] = []
  for (let at = 0; at < plan.ops.length; ) {
    const heads = headsAt(plan, at)
    ops.push({ op: heads?.op ?? (plan.ops[at] as PlanOp), layer: layers[at] as number })
    at += heads?.count ?? 1
  }
  return ops
}

const headsOps = (plan: Plan): HeadsOp[] => stepOps(plan).flatMap(({ op }) => (op.op === 'heads' ? [op] : []))

/** Weights that lie one behind another, so that one launch multiplies by all of them. */
export const stackedWeights = (plan: Plan): string[][] =>
  headsOps(plan).map(({ product }) => product.parts.map(({ weight }) => weight))

/** Floats of the widest row of queries, keys and values; 0 without any. */
export const headsWidth = (plan: Plan): number => Math.max(0, ...headsOps(plan).map(({ place }) => place.stride))

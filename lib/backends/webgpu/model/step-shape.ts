/**
 * All launches of a step of so many tokens, with their buffers bound: made once, run as often as a step has that shape. Nothing in here
 * depends on what the tokens are, or on whose they are.
 */
import type { Plan, PlanOp } from '../../../model/plan.js'
import type { BoundLaunch, GpuDevice } from '../device.js'
import type { ExpertStep, Experts } from '../experts/experts.js'
import { attentionLaunches } from '../launches/attention.js'
import type { Launch } from '../launches/launch.js'
import { rmsNormLaunch } from '../launches/rms-norm.js'
import { ropeLaunch } from '../launches/rope.js'
import type { routeLaunches } from '../launches/route.js'
import { maskWords } from '../launches/route.js'
import type { Arena } from './arena.js'
import { Foresight, mostForeseenRows } from './foresight.js'
import type { AttentionOp, KvPool } from './kv-pool.js'
import { embedding, product } from './products.js'
import type { Rotation } from './rotations.js'
import type { StepSections } from './routing.js'
import { routing } from './routing.js'
import { StepData } from './step-data.js'
import type { GpuWeights } from './weights.js'

/** What a step is made of. */
export type Piece =
  | { do: 'run'; launch: BoundLaunch }
  /** The routes of a layer are there: those that a request brings take their place. */
  | { do: 'routed'; layer: number }
  | { do: 'experts'; layer: number }

export interface ShapeKey {
  rows: number
  /** Positions that a token may see, at most. */
  positions: number
  /** Entries of all page tables, at most. */
  pages: number
  /** Some sequence brings more than one token. */
  together: boolean
}

/** What the launches of a model have in common. */
export interface ShapeParts {
  device: GpuDevice
  plan: Plan
  weights: GpuWeights
  arena: Arena
  experts: Experts | undefined
  rotations: readonly Rotation[]
  /** HSER: what the tiers and groups of each routed layer are. */
  routers: readonly Router[]
}

/** The routers of a layer, ready to be bound. */
export interface Router {
  binding: GPUBufferBinding
  exponent: number
  topology?: GPUBufferBinding
  hser?: NonNullable<Parameters<typeof routeLaunches>[0]['hser']>
}

type RouteOp = Extract<PlanOp, { op: 'route' }>
type OpOf<Name extends PlanOp['op']> = Extract<PlanOp, { op: Name }>

export class StepShape {
  readonly key: ShapeKey
  readonly data: StepData
  readonly pieces: Piece[] = []
  experts: ExpertStep | undefined
  /** The pool's buffers that attention is bound to. */
  readonly generation: number
  readonly pool: KvPool
  readonly #parts: ShapeParts
  readonly #buffers: GPUBuffer[] = []
  #dataBuffer: GPUBuffer | undefined

  private constructor(parts: ShapeParts, key: ShapeKey, pool: KvPool) {
    const { plan, rotations, arena, device } = parts
    const { routing } = arena.sizes
    this.#parts = parts
    this.key = key
    this.pool = pool
    this.generation = pool.generation
    const words = plan.ops.some(({ op }) => op === 'route') ? routing.layers * maskWords(routing.experts) : 0
    const floats = rotations.map(({ rotaryDim }) => rotaryDim)
    this.data = new StepData(
      { rows: key.rows, pages: key.pages, maskWords: words, rotations: floats },
      device.facts.limits.minStorageBufferOffsetAlignment
    )
  }

  /** Throws what GpuDevice.bind and GpuMemory.allocate do; nothing is held then. */
  static async make(parts: ShapeParts, key: ShapeKey, pool: KvPool): Promise<StepShape> {
    const shape = new StepShape(parts, key, pool)
    try {
      await shape.#encode()
      return shape
    } catch (error) {
      shape.dispose()
      throw error
    }
  }

  /** Brings the step's data to the GPU. */
  write(): void {
    this.#parts.device.write(this.#dataBuffer as GPUBuffer, 0, this.data.written)
  }

  dispose(): void {
    for (const piece of this.pieces) if (piece.do === 'run') piece.launch.dispose()
    this.pieces.length = 0
    this.experts?.dispose()
    this.#foresight?.then(
      (foresight) => foresight.dispose(),
      () => {}
    )
    for (const buffer of this.#buffers) this.#parts.device.memory.free(buffer)
    this.#buffers.length = 0
  }

  async #encode(): Promise<void> {
    const { device, plan, arena, experts } = this.#parts
    const { rows } = this.key
    const dataBuffer = await this.#allocate(this.data.bytes, "a step's data")
    this.#dataBuffer = dataBuffer
    const section = ({ offset, size }: { offset: number; size: number }) => ({ buffer: dataBuffer, offset, size })
    this.experts = await experts?.prepare(rows, (layer) => ({
      ids: arena.choices('ids', layer, rows),
      weights: arena.choices('weights', layer, rows),
      status: arena.status(this.#planLayer(layer))
    }))
    // Each launch is bound by itself; the order is that of the pieces.
    const slots: (Promise<BoundLaunch> | Piece)[] = []
    const run = (launch: Launch, bindings: GPUBufferBinding[]) => {
      const bound = device.bind(launch, bindings)
      // Whether it failed is asked when all have been begun.
      bound.catch(() => {})
      slots.push(bound)
    }
    let [attentions, routed] = [0, 0]
    const layers = layersOf(plan)
    for (const [index, op] of plan.ops.entries()) {
      const status = arena.status(layers[index] as number)
      switch (op.op) {
        case 'embed':
          embedding(this.#parts, op, section(this.data.tokens), rows, status, run)
          break
        case 'rmsNorm':
          this.#rmsNorm(op, status, run)
          break
        case 'matmul':
          product(this.#parts, op, rows, status, run)
          break
        case 'rope': {
          const table = this.#parts.rotations.findIndex(
            ({ base, rotaryDim }) => base === op.base && rotaryDim === op.rotaryDim
          )
          const { heads, headDim, rotaryDim, pairs } = op
          run(ropeLaunch({ rows, heads, headDim, rotaryDim, pairs }, device.facts), [
            arena.buffer(op.buffer),
            section(this.data.rotations[table] as { offset: number; size: number })
          ])
          break
        }
        case 'attention':
          await this.#attention(op, attentions++, status, section, run)
          break
        case 'route':
          this.#route(op, routed, status, run)
          slots.push({ do: 'routed', layer: routed })
          break
        case 'experts':
          slots.push({ do: 'experts', layer: routed++ })
          break
        case 'logits':
          break
      }
    }
    const settled = await Promise.allSettled(slots)
    for (const slot of settled) {
      if (slot.status === 'fulfilled')
        this.pieces.push('do' in slot.value ? slot.value : { do: 'run', launch: slot.value })
    }
    const failed = settled.find((slot) => slot.status === 'rejected')
    if (failed) throw failed.reason
  }

  /** The layer of the plan that a routed layer is. */
  #planLayer(routed: number): number {
    const experts = this.#parts.plan.ops.filter((op): op is OpOf<'experts'> => op.op === 'experts')
    return experts[routed]?.layer ?? 0
  }

  #rmsNorm(op: OpOf<'rmsNorm'>, status: GPUBufferBinding, run: Run): void {
    const { device, plan, arena, weights } = this.#parts
    const weight = weights.get(op.weight)
    const inPlace = op.in === op.out
    const width = plan.buffers[op.in] as number
    const shape = { rows: this.key.rows, width, n: weight.columns, epsilon: op.epsilon, inPlace }
    const [x, out, w] = [arena.buffer(op.in), arena.buffer(op.out), { buffer: weight.buffer }]
    run(rmsNormLaunch(shape, device.facts), inPlace ? [x, w, status] : [x, w, out, status])
  }

  async #attention(
    op: AttentionOp,
    index: number,
    status: GPUBufferBinding,
    section: Sections,
    run: Run
  ): Promise<void> {
    const { device, arena } = this.#parts
    const { rows, positions, together } = this.key
    const { heads, kvHeads, headDim, valueDim, scale } = op
    const shape = { rows, heads, kvHeads, headDim, valueDim, scale, kvType: this.pool.type, positions, together }
    const { append, parts, scratchBytes } = attentionLaunches(shape, device.facts)
    const [places, pages, cache] = [section(this.data.places), section(this.data.pages), this.pool.buffer(index)]
    const [q, out] = [arena.buffer(op.q), arena.buffer(op.out)]
    const partials = scratchBytes > 0 ? { buffer: await this.#partials(scratchBytes) } : out
    run(append, [arena.buffer(op.k), arena.buffer(op.v), places, pages, cache, status])
    for (const { attend, merge } of parts) {
      run(attend, [q, places, pages, cache, merge ? partials : out, status])
      if (merge) run(merge, [places, partials, out])
    }
  }

  #route(op: RouteOp, layer: number, status: GPUBufferBinding, run: Run): void {
    const { arena } = this.#parts
    const { rows } = this.key
    const out = { ids: arena.choices('ids', layer, rows), weights: arena.choices('weights', layer, rows) }
    const launches = routing(this.#parts, op, layer, rows, arena.buffer(op.in), status, out, this.#sections())
    for (const { launch, bindings } of launches) run(launch, bindings)
  }

  /** What of the step's data decides its routes. */
  #sections(): StepSections {
    const buffer = this.#dataBuffer as GPUBuffer
    const { positions, masks, maskOf } = this.data
    return { positions: { buffer, ...positions }, masks: { buffer, ...masks }, maskOf: { buffer, ...maskOf } }
  }

  #foresight: Promise<Foresight> | undefined

  /** What tells the routes of the next layer, made when it is first asked for; undefined for steps that are too large for it. */
  foresight(): Promise<Foresight> | undefined {
    if (this.key.rows > mostForeseenRows) return undefined
    this.#foresight ??= Foresight.make(this.#parts, this.key.rows, this.#sections())
    return this.#foresight
  }

  #scratch: { bytes: number; buffer: Promise<GPUBuffer> } | undefined

  /** Memory for partial sums, which all layers share. */
  #partials(bytes: number): Promise<GPUBuffer> {
    if (!this.#scratch || this.#scratch.bytes < bytes) {
      this.#scratch = { bytes, buffer: this.#allocate(bytes, "attention's partial sums") }
    }
    return this.#scratch.buffer
  }

  async #allocate(bytes: number, what: string): Promise<GPUBuffer> {
    const buffer = await this.#parts.device.memory.allocate(bytes, what)
    this.#buffers.push(buffer)
    return buffer
  }
}

export type Run = (launch: Launch, bindings: GPUBufferBinding[]) => void
type Sections = (section: { offset: number; size: number }) => GPUBufferBinding

/** Per operation: the layer that its failures are reported of, that of the next attention or experts. */
function layersOf(plan: Plan): number[] {
  const layers = new Array<number>(plan.ops.length).fill(plan.layers)
  let layer = plan.layers
  for (let i = plan.ops.length - 1; i >= 0; i--) {
    const op = plan.ops[i] as PlanOp
    if (op.op === 'attention' || op.op === 'experts') layer = op.layer
    layers[i] = layer
  }
  return layers
}

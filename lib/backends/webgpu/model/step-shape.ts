/**
 * All launches of a step of so many tokens, with their buffers bound: made once, run as often as a step has that shape. Nothing in here
 * depends on what the tokens are, or on whose they are.
 */
import type { OpOf, Plan } from '../../../model/plan.js'
import type { BoundLaunch, GpuDevice, UnboundLaunch } from '../device.js'
import type { ExpertStep, Experts } from '../experts/experts.js'
import { chunk } from '../launches/attention.js'
import type { Launch } from '../launches/launch.js'
import { rmsNormLaunch } from '../launches/rms-norm.js'
import { ropeLaunch } from '../launches/rope.js'
import type { routeLaunches } from '../launches/route.js'
import { maskWords } from '../launches/route.js'
import { scaleLaunch } from '../launches/scale.js'
import type { Arena } from './arena.js'
import { attention, heads, partialBytes } from './attending.js'
import { Foresight, mostForeseenRows } from './foresight.js'
import { gating, multiplyHeads } from './heads-products.js'
import type { KvPool } from './kv-pool.js'
import { embedding, multiply, quantising, takesBlocks } from './products.js'
import { type Rotation, rotationKey } from './rotations.js'
import type { StepSections } from './routing.js'
import { routing } from './routing.js'
import { StepData } from './step-data.js'
import type { StepOp } from './step-ops.js'
import { stepOps } from './step-ops.js'
import type { GpuWeights } from './weights.js'

/** What a step is made of. */
export type Piece =
  | { do: 'run'; launch: BoundLaunch }
  /** A launch whose depth is the number of chunks of positions: no more are run than the step reaches. */
  | { do: 'attend'; launch: BoundLaunch }
  /** The routes of a layer are there: those that a request brings take their place. */
  | { do: 'routed'; layer: number }
  | { do: 'experts'; layer: number }

export interface ShapeKey {
  rows: number
  /** Positions that a token may see, at most. */
  positions: number
  /** Entries of all page tables, at most. */
  pages: number
  /** For as many positions as the pool has: no later step of so many tokens has another shape until the pool grows. */
  steady: boolean
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
  bias?: { binding: GPUBufferBinding; exponent: number }
  selectionBias?: GPUBufferBinding
  topology?: GPUBufferBinding
  hser?: NonNullable<Parameters<typeof routeLaunches>[0]['hser']>
}

/** Chunks of attention that a step has whose farthest token sees so many positions. */
export const chunksOf = (positions: number): number => Math.ceil(positions / chunk)

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
    for (const piece of this.pieces) if ('launch' in piece) piece.launch.dispose()
    this.pieces.length = 0
    this.experts?.dispose()
    this.#foresight?.then((foresight) => foresight?.dispose())
    for (const buffer of this.#buffers) this.#parts.device.memory.free(buffer)
    this.#buffers.length = 0
  }

  async #encode(): Promise<void> {
    const { device, plan, arena, weights, experts, rotations } = this.#parts
    const { rows } = this.key
    const ops = stepOps(plan)
    const dataBuffer = await this.#allocate(this.data.bytes, "a step's data")
    this.#dataBuffer = dataBuffer
    const section = ({ offset, size }: { offset: number; size: number }) => ({ buffer: dataBuffer, offset, size })
    const partials = await this.#partials(ops)
    const layers = ops.flatMap(({ op, layer }) => (op.op === 'experts' ? [layer] : []))
    this.experts = await experts?.prepare(rows, (layer) => ({
      ids: arena.choices('ids', layer, rows),
      weights: arena.choices('weights', layer, rows),
      status: arena.status(layers[layer] as number),
      blocks: arena.get('activations')
    }))
    const listed: ((UnboundLaunch & { do: 'run' | 'attend' }) | Piece)[] = []
    const run: Run = (launch, buffers) => listed.push({ do: 'run', launch, buffers })
    const runFar: Run = (launch, buffers) => listed.push({ do: 'attend', launch, buffers })
    // The buffer of the plan whose rows are, quantised, in the arena's activations.
    let blocks: string | undefined
    const quantised = (name: string, status: GPUBufferBinding) => {
      const shape = { rows, columns: plan.buffers[name] as number }
      if (blocks !== name) quantising(this.#parts, arena.buffer(name), shape, status, run)
      blocks = name
    }
    const tableOf = (op: OpOf<'rope'>) => {
      const index = rotations.findIndex(({ key }) => key === rotationKey(op))
      return section(this.data.rotations[index] as { offset: number; size: number })
    }
    let [attentions, routed] = [0, 0]
    const cached = (status: GPUBufferBinding) => ({
      places: section(this.data.places),
      pages: section(this.data.pages),
      cache: this.pool.buffer(attentions++),
      partials,
      status
    })
    for (const [index, { op, layer }] of ops.entries()) {
      const status = arena.status(layer)
      switch (op.op) {
        case 'embed':
          embedding(this.#parts, op, section(this.data.tokens), rows, status, run)
          break
        case 'rmsNorm':
          blocks = this.#rmsNorm(op, takesNext(ops, index, op.out, this.#parts), status, run) ? op.out : undefined
          break
        case 'matmul': {
          const matrices = op.parts.map(({ weight }) => weights.get(weight))
          if (takesBlocks(matrices)) quantised(op.in, status)
          const out = op.parts.map(({ out }) => arena.buffer(out))
          const biases = op.parts.map(({ bias }) => (bias ? { buffer: weights.get(bias).buffer } : undefined))
          multiply(this.#parts, { input: arena.buffer(op.in), matrices, out, biases, add: op.add ?? false, rows }, run)
          break
        }
        case 'heads': {
          const matrices = weights.stack(op.product.parts.map(({ weight }) => weight))
          if (takesBlocks(matrices)) quantised(op.product.in, status)
          const buffers = { ...cached(status), table: tableOf(op.rope) }
          const wanted = takesNext(ops, index, op.attention.out, this.#parts)
          const done = heads(this.#parts, this.key, op, matrices, this.pool.type, buffers, wanted, { run, runFar })
          blocks = done ? op.attention.out : undefined
          break
        }
        case 'rope': {
          const { heads, headDim, rotaryDim, pairs, offset } = op
          run(ropeLaunch({ rows, heads, headDim, rotaryDim, pairs, offset }, device.facts), [
            arena.buffer(op.buffer),
            tableOf(op)
          ])
          break
        }
        case 'attention':
          attention(this.#parts, this.key, op, this.pool.type, cached(status), { run, runFar })
          break
        case 'gated':
          gating(this.#parts, op, rows, status, run)
          break
        case 'headMatmul':
          blocks = multiplyHeads(this.#parts, op, rows, status, run) ? undefined : blocks
          break
        case 'route':
          this.#route(op, routed, status, run)
          listed.push({ do: 'routed', layer: routed })
          break
        case 'experts':
          if (experts?.quantises(routed)) quantised(op.in, status)
          listed.push({ do: 'experts', layer: routed++ })
          break
        case 'scale':
          run(scaleLaunch(rows * (plan.buffers[op.buffer] as number), op.by, device.facts), [arena.buffer(op.buffer)])
          break
        case 'logits':
          break
      }
      const isOwn = op.op === 'rmsNorm' || op.op === 'heads'
      if (!isOwn && blocks !== undefined && writes(op, blocks)) blocks = undefined
    }
    const bound = await device.bindAll(listed.flatMap((one) => ('buffers' in one ? [one] : [])))
    let next = 0
    for (const one of listed) {
      this.pieces.push('buffers' in one ? { do: one.do, launch: bound[next++] as BoundLaunch } : one)
    }
  }

  /** Gives whether it has quantised the rows too. */
  #rmsNorm(op: OpOf<'rmsNorm'>, wanted: boolean, status: GPUBufferBinding, run: Run): boolean {
    const { device, plan, arena, weights } = this.#parts
    const weight = weights.get(op.weight)
    const inPlace = op.in === op.out
    const width = plan.buffers[op.in] as number
    const quantise = wanted && !inPlace && weight.columns === width
    const shape = {
      rows: this.key.rows,
      width,
      n: weight.columns,
      epsilon: op.epsilon,
      inPlace,
      runs: op.runs,
      quantise
    }
    const [x, out, w] = [arena.buffer(op.in), arena.buffer(op.out), { buffer: weight.buffer }]
    const blocks = quantise ? [arena.get('activations')] : []
    run(rmsNormLaunch(shape, device.facts), inPlace ? [x, w, status] : [x, w, out, status, ...blocks])
    return quantise
  }

  #route(op: OpOf<'route'>, layer: number, status: GPUBufferBinding, run: Run): void {
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

  #foresight: Promise<Foresight | undefined> | undefined

  /**
   * What tells the routes of the next layer, made when it is first asked for; undefined for steps that are too large for it, and where it cannot be
   * made: nothing but speed depends on it.
   */
  foresight(): Promise<Foresight | undefined> | undefined {
    if (this.key.rows > mostForeseenRows) return undefined
    this.#foresight ??= Foresight.make(this.#parts, this.key.rows, this.#sections()).catch(() => undefined)
    return this.#foresight
  }

  /** Memory for partial sums, which all layers share; of this shape's own where it is for more positions than one sequence may have. */
  async #partials(ops: readonly StepOp[]): Promise<GPUBufferBinding> {
    const { arena } = this.#parts
    const bytes = Math.max(0, ...ops.map(({ op }) => partialBytes(this.#parts, this.key, op, this.pool.type)))
    if (bytes <= arena.partialBytes) return arena.get('partials')
    return { buffer: await this.#allocate(bytes, "attention's partial sums") }
  }

  async #allocate(bytes: number, what: string): Promise<GPUBuffer> {
    const buffer = await this.#parts.device.memory.allocate(bytes, what)
    this.#buffers.push(buffer)
    return buffer
  }
}

export type Run = (launch: Launch, bindings: GPUBufferBinding[]) => void

/** Whether an operation writes a buffer of the plan. */
function writes(op: StepOp['op'], name: string): boolean {
  if (op.op === 'heads') return op.attention.out === name
  if (op.op === 'matmul') return op.parts.some(({ out }) => out === name)
  if (op.op === 'rope' || op.op === 'gated' || op.op === 'scale') return op.buffer === name
  return 'out' in op && op.out === name
}

/** Whether something takes the buffer that operation `at` writes quantised, before it is written again. */
function takesNext(ops: readonly StepOp[], at: number, name: string, { weights, experts }: ShapeParts): boolean {
  let routed = ops.slice(0, at).filter(({ op }) => op.op === 'experts').length
  for (const { op } of ops.slice(at + 1)) {
    if (op.op === 'matmul' || op.op === 'heads') {
      const { in: from, parts } = op.op === 'heads' ? op.product : op
      const names = parts.map(({ weight }) => weight)
      const matrices = op.op === 'heads' ? weights.stack(names) : names.map((weight) => weights.get(weight))
      if (from === name && takesBlocks(matrices)) return true
    }
    if (op.op === 'experts' && experts?.quantises(routed++) && op.in === name) return true
    if (writes(op, name)) return false
  }
  return false
}

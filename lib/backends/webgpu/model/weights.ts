/** A plan's weights in GPU memory, in the CPU kernels' own layout: read piece by piece, so that host memory stays small. */
import { createError } from '../../../errors/index.js'
import { isReadWhole, type Plan, type PlanTensor } from '../../../model/plan.js'
import type { DType, NativeBackend, NativeCancel, NativeGguf, WeightInfo } from '../../../native.js'
import type { GpuDevice } from '../device.js'

/** Bytes that are read, packed and handed to the queue at a time. */
const pieceBytes = 8 * 2 ** 20
/** Bytes that the queue may hold before it is waited for: what it was given is host memory until it is submitted. */
const queuedBytes = 8 * pieceBytes

export interface GpuWeight {
  type: DType
  rows: number
  columns: number
  /** Of a router and its bias: w = q · 2^(exponent - 23). */
  exponent: number
  buffer: GPUBuffer
}

export interface WeightsRequest {
  device: GpuDevice
  /** Reads and packs. */
  host: NativeBackend
  file: NativeGguf
  plan: Plan
  /** Matrices that are to lie one behind another in one buffer (`stack`). */
  stacked: readonly (readonly string[])[]
  cancel: NativeCancel
}

/** Bytes of `rows` rows of a matrix (a head's, where there is one for each); a packed one is made of whole groups. */
const bytesOf = (info: WeightInfo, rows: number): number =>
  (info.bytes / info.experts / Math.ceil(info.rows / info.groupRows)) * Math.ceil(rows / info.groupRows)

/** Matrices one behind another in one buffer. */
interface Stack {
  name: string
  rows: number
  bytes: number
  /** Byte of each matrix's first. */
  begins: ReadonlyMap<string, number>
}

/** Undefined where the matrices are not of one form, or one of them ends within a group of rows. */
function stackOf(infos: readonly WeightInfo[]): Stack | undefined {
  const [first] = infos
  const begins = new Map<string, number>()
  let [rows, bytes] = [0, 0]
  for (const info of infos) {
    const same = info.type === first?.type && info.columns === first.columns
    if (!same || rows % info.groupRows !== 0) return undefined
    begins.set(info.name, bytes)
    rows += info.rows
    bytes += info.bytes
  }
  return { name: infos.map(({ name }) => name).join(' + '), rows, bytes, begins }
}

export class GpuWeights {
  /** What is to be loaded, in the plan's order: every tensor but those of the experts. */
  readonly infos: readonly WeightInfo[]
  /** Bytes of weights that are there. */
  bytes = 0
  readonly #request: WeightsRequest
  readonly #device: GpuDevice
  readonly #weights = new Map<string, GpuWeight>()
  /** What the host needs too: divisors of rotary frequencies. */
  readonly #vectors = new Map<string, Float32Array>()
  readonly #divides: ReadonlySet<string>
  readonly #buffers: GPUBuffer[] = []
  /** By the name of each of its matrices. */
  readonly #stacks = new Map<string, Stack>()

  /** Throws what NativeBackend.describeWeights does. */
  constructor(request: WeightsRequest) {
    this.#request = request
    this.#device = request.device
    this.#divides = new Set(request.plan.ops.flatMap((op) => (op.op === 'rope' && op.divisors ? [op.divisors] : [])))
    this.infos = request.host.describeWeights(request.file, request.plan)
    const infos = new Map(this.infos.map((info) => [info.name, info]))
    for (const names of request.stacked) {
      const stack = stackOf(names.map((name) => infos.get(name) as WeightInfo))
      if (!stack || stack.bytes > this.#device.facts.limits.maxBufferSize) continue
      for (const name of names) this.#stacks.set(name, stack)
    }
  }

  /** Reads one weight and brings it to the GPU. Throws what NativeBackend.readWeight does, GPU_VRAM_EXHAUSTED, GPU_LIMIT_EXCEEDED. */
  async load(info: WeightInfo): Promise<void> {
    const tensor = this.#request.plan.tensors.find(({ name }) => name === info.name)
    await this.#load(info, tensor as PlanTensor)
    this.bytes += info.bytes
  }

  /** Resolves when the GPU has all of it. */
  async finish(): Promise<void> {
    this.#queued = 0
    this.#device.submit(() => {})
    await this.#device.finished()
  }

  get(name: string): GpuWeight {
    const weight = this.#weights.get(name)
    if (!weight) throw createError('RUNTIME_INVARIANT_VIOLATED', `the weight ${name} was not loaded`, { tensor: name })
    return weight
  }

  /** A vector that divides rotary frequencies, in host memory. */
  vector(name: string): Float32Array {
    const vector = this.#vectors.get(name)
    if (!vector) throw createError('RUNTIME_INVARIANT_VIOLATED', `the vector ${name} was not loaded`, { tensor: name })
    return vector
  }

  /** Matrices that the same rows are multiplied by: one with the rows of all where they lie in one buffer, else each for itself. */
  stack(names: readonly string[]): GpuWeight[] {
    const stack = this.#stacks.get(names[0] as string)
    return stack ? [this.get(stack.name)] : names.map((name) => this.get(name))
  }

  dispose(): void {
    for (const buffer of this.#buffers) this.#device.memory.free(buffer)
    this.#buffers.length = 0
    this.#weights.clear()
  }

  /** Reads the tensor piece by piece into a buffer of its own. */
  async #load(info: WeightInfo, tensor: PlanTensor): Promise<void> {
    const { host, file, cancel } = this.#request
    const { type, rows, columns, groupRows, experts: matrices } = info
    const stack = this.#stacks.get(info.name)
    const whole = isReadWhole(tensor.role)
    const { buffer, begin } = await this.#place(info, stack)
    // Rows of blocks are whole words by twos.
    const least = Math.max(2, groupRows)
    const step = whole ? rows : Math.max(1, Math.floor(pieceBytes / bytesOf(info, least))) * least
    let [offset, exponent] = [begin, 0]
    const ofMatrix = Math.ceil(rows / step)
    for (let piece = 0; piece < matrices * ofMatrix; piece++) {
      const [expert, firstRow] = [Math.floor(piece / ofMatrix), (piece % ofMatrix) * step]
      const count = Math.min(step, rows - firstRow)
      const bytes = whole ? info.bytes : bytesOf(info, count)
      const out = this.#staging(Math.ceil(bytes / 4) * 4)
      const read = await host.readWeight(file, tensor, { expert, firstRow, rows: count, out }, cancel)
      exponent = read.exponent
      this.#device.write(buffer, offset, out)
      if (this.#divides.has(info.name)) this.#vectors.set(info.name, new Float32Array(out.slice().buffer))
      offset += bytes
      this.#queued += bytes
      if (this.#queued >= queuedBytes) await this.finish()
    }
    const own = stack ?? { name: info.name, rows }
    this.#weights.set(own.name, { type, rows: own.rows, columns, exponent, buffer })
  }

  /** Where a weight goes: into a buffer of its own, or into that of its stack. */
  async #place(info: WeightInfo, stack: Stack | undefined): Promise<{ buffer: GPUBuffer; begin: number }> {
    const known = stack && this.#weights.get(stack.name)?.buffer
    const begin = stack?.begins.get(info.name) ?? 0
    if (known) return { buffer: known, begin }
    const { name, bytes } = stack ?? info
    const buffer = await this.#device.memory.allocate(bytes, name)
    this.#buffers.push(buffer)
    return { buffer, begin }
  }

  #queued = 0
  #memory = new ArrayBuffer(0)

  /** Memory for a piece, used again for the next: the queue has copied what it was given. */
  #staging(bytes: number): Uint8Array<ArrayBuffer> {
    if (this.#memory.byteLength < bytes) this.#memory = new ArrayBuffer(bytes)
    return new Uint8Array(this.#memory, 0, bytes)
  }
}

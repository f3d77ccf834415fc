/** A plan's weights in GPU memory, in the CPU kernels' own layout: read piece by piece, so that host memory stays small. */
import { createError } from '../../../errors/index.js'
import type { Plan, PlanTensor } from '../../../model/plan.js'
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
  /** Of a router: w = q · 2^(exponent - 23). */
  exponent: number
  buffer: GPUBuffer
}

export interface WeightsRequest {
  device: GpuDevice
  /** Reads and packs. */
  host: NativeBackend
  file: NativeGguf
  plan: Plan
  cancel: NativeCancel
}

/** Bytes of `rows` rows; a packed matrix is made of whole groups. */
const bytesOf = (info: WeightInfo, rows: number): number =>
  (info.bytes / Math.ceil(info.rows / info.groupRows)) * Math.ceil(rows / info.groupRows)

export class GpuWeights {
  /** What is to be loaded, in the plan's order: every tensor but those of the experts. */
  readonly infos: readonly WeightInfo[]
  /** Bytes of weights that are there. */
  bytes = 0
  readonly #request: WeightsRequest
  readonly #device: GpuDevice
  readonly #weights = new Map<string, GpuWeight>()
  readonly #buffers: GPUBuffer[] = []

  /** Throws what NativeBackend.describeWeights does. */
  constructor(request: WeightsRequest) {
    this.#request = request
    this.#device = request.device
    this.infos = request.host.describeWeights(request.file, request.plan)
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

  dispose(): void {
    for (const buffer of this.#buffers) this.#device.memory.free(buffer)
    this.#buffers.length = 0
    this.#weights.clear()
  }

  /** Reads the tensor piece by piece into a buffer of its own. */
  async #load(info: WeightInfo, tensor: PlanTensor): Promise<void> {
    const { host, file, cancel } = this.#request
    const { type, rows, columns, groupRows } = info
    const whole = tensor.role === 'vector' || tensor.role === 'router'
    const buffer = await this.#device.memory.allocate(info.bytes, info.name)
    this.#buffers.push(buffer)
    // Rows of blocks are whole words by twos.
    const least = Math.max(2, groupRows)
    const step = whole ? rows : Math.max(1, Math.floor(pieceBytes / bytesOf(info, least))) * least
    let [offset, exponent] = [0, 0]
    for (let firstRow = 0; firstRow < rows; firstRow += step) {
      const count = Math.min(step, rows - firstRow)
      const bytes = whole ? info.bytes : bytesOf(info, count)
      const out = this.#staging(Math.ceil(bytes / 4) * 4)
      const read = await host.readWeight(file, tensor, { expert: 0, firstRow, rows: count, out }, cancel)
      exponent = read.exponent
      this.#device.write(buffer, offset, out)
      offset += bytes
      this.#queued += bytes
      if (this.#queued >= queuedBytes) await this.finish()
    }
    this.#weights.set(info.name, { type, rows, columns, exponent, buffer })
  }

  #queued = 0
  #memory = new ArrayBuffer(0)

  /** Memory for a piece, used again for the next: the queue has copied what it was given. */
  #staging(bytes: number): Uint8Array<ArrayBuffer> {
    if (this.#memory.byteLength < bytes) this.#memory = new ArrayBuffer(bytes)
    return new Uint8Array(this.#memory, 0, bytes)
  }
}

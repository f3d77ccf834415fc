/** What a step gives back: gathered in the one buffer that is read. */
import type { Commands } from '../device.js'
import type { Arena, ArenaSizes } from './arena.js'
import { logitRows, roundUp } from './arena.js'

/** Bytes of each part. */
interface Parts {
  status: number
  ids: number
  weights: number
  logits: number
}

/** Bytes of the largest that is planned for: with logits of up to 32 rows. */
export function outcomeBytes({ plan, maxBatchTokens, routing }: ArenaSizes, alignment: number): number {
  const status = (plan.layers + 2) * alignment
  const choices = routing.layers * roundUp(maxBatchTokens * routing.k * 4, alignment)
  return status + 2 * choices + Math.min(maxBatchTokens, logitRows) * plan.vocab * 4
}

export class Outcome {
  readonly #most: number
  #parts: Parts = { status: 0, ids: 0, weights: 0, logits: 0 }
  #buffer: GPUBuffer | undefined
  #reading: Promise<ArrayBuffer> | undefined
  #bytes = new ArrayBuffer(0)

  /** `most`: bytes of those that are read through one buffer, whatever their size. */
  constructor(most: number) {
    this.#most = most
  }

  plan(parts: Parts): void {
    this.#parts = parts
  }

  /** It needs a buffer of its own. */
  get isLarger(): boolean {
    return this.#bytesOf('end') > this.#most
  }

  /** What is taken over from now on comes with this submit. GPU_VRAM_EXHAUSTED, GPU_LIMIT_EXCEEDED. */
  begin(commands: Commands): void {
    const size = this.#bytesOf('end')
    // The same memory for every step: making it anew takes longer than the copy.
    if (this.#bytes.byteLength < size) this.#bytes = new ArrayBuffer(size)
    const { buffer, data } = commands.staged(size, this.#bytes, this.#most)
    this.#buffer = buffer
    this.#reading = data
  }

  /** Takes over all but the logits. */
  gather(commands: Commands, arena: Arena, captures: boolean): void {
    const { status, ids, weights } = this.#parts
    this.#take(commands, arena.get('status').buffer, 'status', status)
    if (ids > 0) this.#take(commands, arena.get('ids').buffer, 'ids', ids)
    if (captures && weights > 0) this.#take(commands, arena.get('weights').buffer, 'weights', weights)
  }

  /** Takes over logits: `count` rows, the first of which is row `first` of all. */
  gatherLogits(commands: Commands, from: GPUBuffer, first: number, count: number, vocab: number): void {
    const size = count * vocab * 4
    const offset = this.#bytesOf('logits') + first * vocab * 4
    commands.copy({ buffer: from, offset: 0, size }, { buffer: this.#buffer as GPUBuffer, offset, size })
  }

  async read(): Promise<void> {
    this.#bytes = await (this.#reading as Promise<ArrayBuffer>)
  }

  status(): Uint32Array {
    return new Uint32Array(this.#bytes, 0, this.#parts.status / 4)
  }

  ids(layer: number, layerBytes: number, count: number): Int32Array {
    return new Int32Array(this.#bytes, this.#bytesOf('ids') + layer * layerBytes, count)
  }

  weights(layer: number, layerBytes: number, count: number): Float32Array {
    return new Float32Array(this.#bytes, this.#bytesOf('weights') + layer * layerBytes, count)
  }

  logits(first: number, count: number, vocab: number): Float32Array {
    return new Float32Array(this.#bytes, this.#bytesOf('logits') + first * vocab * 4, count * vocab)
  }

  dispose(): void {
    this.#bytes = new ArrayBuffer(0)
  }

  #take(commands: Commands, buffer: GPUBuffer, part: 'status' | 'ids' | 'weights', size: number): void {
    commands.copy({ buffer, offset: 0, size }, { buffer: this.#buffer as GPUBuffer, offset: this.#bytesOf(part), size })
  }

  /** Bytes before a part. */
  #bytesOf(part: keyof Parts | 'end'): number {
    const { status, ids, weights, logits } = this.#parts
    const before = { status: 0, ids: status, weights: status + ids, logits: status + ids + weights }
    return part === 'end' ? before.logits + logits : before[part]
  }
}

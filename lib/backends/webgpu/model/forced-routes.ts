/** Replay: routes that a request brings take the place of what was routed, layer by layer, for its own tokens. */
import type { Commands, GpuDevice } from '../device.js'
import type { Arena } from './arena.js'
import type { Item } from './step-items.js'

/** One item's routes in the buffer: [layers][count · k] ids, then as many weights. */
interface Brought {
  /** First row of the item in the step. */
  row: number
  count: number
  /** Bytes from the buffer's begin. */
  ids: number
  weights: number
}

export class ForcedRoutes {
  readonly #device: GpuDevice
  readonly #arena: Arena
  #brought: Brought[] = []
  #buffer: GPUBuffer | undefined

  constructor(device: GpuDevice, arena: Arena) {
    this.#device = device
    this.#arena = arena
  }

  /** Brings the routes of the items that have some to the GPU. GPU_VRAM_EXHAUSTED, GPU_LIMIT_EXCEEDED. */
  async prepare(items: readonly Item[]): Promise<void> {
    this.#brought = []
    if (!items.some(({ forcedIds }) => forcedIds)) return
    const { layers, k } = this.#arena.sizes.routing
    let [row, bytes] = [0, 0]
    const memory: { at: number; item: Item }[] = []
    for (const item of items) {
      const count = item.tokens.length
      if (item.forcedIds) {
        const size = layers * count * k * 4
        this.#brought.push({ row, count, ids: bytes, weights: bytes + size })
        memory.push({ at: bytes, item })
        bytes += 2 * size
      }
      row += count
    }
    if (!this.#buffer || this.#buffer.size < bytes) {
      const grown = await this.#device.memory.allocate(bytes, 'routes that are replayed')
      if (this.#buffer) this.#device.memory.free(this.#buffer)
      this.#buffer = grown
    }
    const words = new ArrayBuffer(bytes)
    for (const { at, item } of memory) {
      const length = layers * item.tokens.length * k
      byLayer(item.forcedIds as Int32Array, new Int32Array(words, at, length), item.tokens.length, layers, k)
      byLayer(
        item.forcedWeights as Float32Array,
        new Float32Array(words, at + length * 4, length),
        item.tokens.length,
        layers,
        k
      )
    }
    this.#device.write(this.#buffer, 0, new Uint8Array(words))
  }

  /** Puts the routes of a layer in place. */
  encode(commands: Commands, layer: number, rows: number): void {
    if (this.#brought.length === 0) return
    const { k } = this.#arena.sizes.routing
    for (const { row, count, ...from } of this.#brought) {
      const size = count * k * 4
      for (const name of ['ids', 'weights'] as const) {
        const { buffer, offset = 0 } = this.#arena.choices(name, layer, rows)
        const source = { buffer: this.#buffer as GPUBuffer, offset: from[name] + layer * size, size }
        commands.copy(source, { buffer, offset: offset + row * k * 4, size })
      }
    }
  }

  dispose(): void {
    if (this.#buffer) this.#device.memory.free(this.#buffer)
    this.#buffer = undefined
  }
}

/** [tokens][layers][k] → [layers][tokens][k]. */
function byLayer<Values extends Int32Array | Float32Array>(
  from: Values,
  to: Values,
  tokens: number,
  layers: number,
  k: number
): void {
  for (let layer = 0; layer < layers; layer++) {
    for (let token = 0; token < tokens; token++) {
      const at = (token * layers + layer) * k
      to.set(from.subarray(at, at + k), (layer * tokens + token) * k)
    }
  }
}

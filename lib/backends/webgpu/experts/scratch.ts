/** GPU memory that the experts of a step go through, one set for all layers, and what shape these have. */
import type { OpOf, Plan } from '../../../model/plan.js'
import type { GpuDevice } from '../device.js'
import type { ExpertShape } from '../launches/expert-matmul.js'
import type { ScratchName } from './stages.js'
import { scratchBytes } from './stages.js'

/** A layer's experts for any number of tokens. */
export type LayerShape = Omit<ExpertShape, 'tokens'>

/** The operation of each routed layer. */
export const expertOps = (plan: Plan): OpOf<'experts'>[] =>
  plan.ops.filter((op): op is OpOf<'experts'> => op.op === 'experts')

/** The shapes of a plan's routed layers; `types` of each layer's gate, up and down. */
export function layerShapes(plan: Plan, types: (layer: number) => ExpertShape['types']): LayerShape[] {
  const tensors = new Map(plan.tensors.map(({ name, shape }) => [name, shape]))
  const ks = plan.ops.flatMap((op) => (op.op === 'route' ? [op.k] : []))
  return expertOps(plan).map(({ gate, activation, biases }, layer) => {
    const [width = 0, hidden = 0, experts = 0] = tensors.get(gate) ?? []
    const sizes = { k: ks[layer] as number, experts, width, hidden, types: types(layer), activation }
    return biases ? { ...sizes, biases: { gate: true, up: true, down: true } } : sizes
  })
}

/** Bytes of each buffer, for steps of up to so many tokens of any layer. */
function largest(shapes: readonly LayerShape[], tokens: number): Map<ScratchName, number> {
  const sizes = new Map<ScratchName, number>()
  for (const shape of shapes) {
    for (const [name, bytes] of Object.entries(scratchBytes({ ...shape, tokens })) as [ScratchName, number][]) {
      sizes.set(name, Math.max(bytes, sizes.get(name) ?? 0))
    }
  }
  return sizes
}

const sumOf = (sizes: ReadonlyMap<ScratchName, number>): number =>
  [...sizes.values()].reduce((sum, bytes) => sum + bytes, 0)

/** Most GPU memory that the experts of a step take beside their slots, whatever types their weights have. */
export function expertScratchBytes(plan: Plan, maxBatchTokens: number): number {
  const each = { gate: 'Q8_0', up: 'Q4_0', down: 'Q8_0' } as const
  return sumOf(
    largest(
      layerShapes(plan, () => each),
      maxBatchTokens
    )
  )
}

export class Scratch {
  readonly shapes: readonly LayerShape[]
  /** Of all its buffers. */
  readonly bytes: number
  readonly #device: GpuDevice
  readonly #buffers = new Map<ScratchName, GPUBuffer>()

  private constructor(device: GpuDevice, shapes: readonly LayerShape[], bytes: number) {
    this.#device = device
    this.shapes = shapes
    this.bytes = bytes
  }

  /** Throws GPU_VRAM_EXHAUSTED, GPU_LIMIT_EXCEEDED; nothing is held then. */
  static async make(device: GpuDevice, shapes: readonly LayerShape[], maxBatchTokens: number): Promise<Scratch> {
    const scratch = new Scratch(device, shapes, sumOf(largest(shapes, maxBatchTokens)))
    try {
      for (const [name, bytes] of largest(shapes, maxBatchTokens)) {
        scratch.#buffers.set(name, await device.memory.allocate(bytes, `the experts' ${name}`))
      }
      return scratch
    } catch (error) {
      scratch.dispose()
      throw error
    }
  }

  shape(layer: number, tokens: number): ExpertShape {
    return { ...(this.shapes[layer] as LayerShape), tokens }
  }

  /** As much of a buffer as so many tokens of a layer need. */
  binding(name: ScratchName, layer: number, tokens: number): GPUBufferBinding {
    const bytes = scratchBytes(this.shape(layer, tokens))[name] ?? 0
    return { buffer: this.#buffers.get(name) as GPUBuffer, size: Math.max(16, Math.ceil(bytes / 16) * 16) }
  }

  dispose(): void {
    for (const buffer of this.#buffers.values()) this.#device.memory.free(buffer)
    this.#buffers.clear()
  }
}

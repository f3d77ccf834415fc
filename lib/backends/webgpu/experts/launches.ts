/** The launches of routed layers for steps of so many tokens, bound to their buffers: those of a layer, and those over each slab. */
import type { ExpertLayout } from '../../../native.js'
import type { BoundLaunch, Commands } from '../device.js'
import type { ExpertParts, LayerSlices } from './experts.js'
import type { BufferName, ScratchName, Stage } from './stages.js'
import { firstOutputs, stagesAfter, stagesBefore, stagesBetween, stagesInto, stagesOut } from './stages.js'

const keyOf = (layer: number, slab: number): string => `${layer} ${slab}`

export class LayerLaunches {
  readonly #parts: ExpertParts
  readonly #tokens: number
  readonly #slices: (layer: number) => LayerSlices
  /** Slots of a layer that the table does not have: of versions. */
  readonly #beside: (layer: number) => readonly number[]
  /** Per layer: before, between and after what is done over slabs. */
  readonly #own = new Map<number, BoundLaunch[][]>()
  /** Per layer and slab: gate and up, and down. */
  readonly #overSlabs = new Map<string, BoundLaunch[][]>()
  readonly #whole = new Map<number, readonly BoundLaunch[]>()
  #generation: number

  constructor(
    parts: ExpertParts,
    tokens: number,
    slices: (layer: number) => LayerSlices,
    beside: (layer: number) => readonly number[]
  ) {
    this.#parts = parts
    this.#tokens = tokens
    this.#slices = slices
    this.#beside = beside
    this.#generation = parts.slabs.generation
  }

  /** Binds what a layer needs over these slabs, where it is not bound. Throws as GpuDevice.bind. */
  async bind(layer: number, slabs: readonly number[]): Promise<void> {
    const { slabs: memory, scratch, device, layouts } = this.#parts
    const { facts } = device
    if (this.#generation !== memory.generation) dispose(this.#overSlabs)
    this.#generation = memory.generation
    const shape = scratch.shape(layer, this.#tokens)
    if (!this.#own.has(layer)) {
      const stages = [stagesBefore(shape, facts), stagesBetween(shape, facts), stagesAfter(shape, facts)]
      this.#own.set(layer, await this.#bindAll(layer, stages))
    }
    const layout = layouts[layer] as ExpertLayout
    for (const slab of slabs) {
      if (this.#overSlabs.has(keyOf(layer, slab))) continue
      const place = { first: slab * memory.perSlab, slots: memory.perSlab, slotBytes: memory.slotBytes }
      const stages = [stagesInto(shape, layout, place, facts), stagesOut(shape, layout, place, facts)]
      this.#overSlabs.set(keyOf(layer, slab), await this.#bindAll(layer, stages, slab))
    }
  }

  /** Binds every layer over the slabs in which its experts lie now. */
  async bindLayers(): Promise<void> {
    for (const layer of this.#parts.layouts.keys()) await this.bind(layer, this.#lying(layer))
  }

  /** Dispatch and what else precedes the experts. `whole`: one part has them all; otherwise what no part has written yet is zero. */
  begin(commands: Commands, layer: number, whole: boolean): void {
    const { scratch } = this.#parts
    if (!whole) {
      for (const name of firstOutputs(scratch.shape(layer, this.#tokens))) {
        commands.clear(scratch.binding(name, layer, this.#tokens))
      }
    }
    run(commands, this.#own.get(layer)?.[0])
  }

  /** The experts that the table shows, which lie in these slabs. */
  part(commands: Commands, layer: number, slabs: readonly number[]): void {
    for (const slab of slabs) run(commands, this.#overSlabs.get(keyOf(layer, slab))?.[0])
    run(commands, this.#own.get(layer)?.[1])
    for (const slab of slabs) run(commands, this.#overSlabs.get(keyOf(layer, slab))?.[1])
  }

  /** The weighted sum of what all parts gave. */
  end(commands: Commands, layer: number): void {
    run(commands, this.#own.get(layer)?.[2])
  }

  /** A whole layer whose experts have their slots for good: always the same launches. */
  encode(commands: Commands, layer: number): void {
    let whole = this.#whole.get(layer)
    if (!whole) {
      const slabs = this.#lying(layer).map((slab) => this.#overSlabs.get(keyOf(layer, slab)) ?? [])
      const [before = [], between = [], after = []] = this.#own.get(layer) ?? []
      const [into, out] = [0, 1].map((stage) => slabs.flatMap((lists) => lists[stage] ?? [])) as [
        BoundLaunch[],
        BoundLaunch[]
      ]
      whole = [...before, ...into, ...between, ...out, ...after]
      this.#whole.set(layer, whole)
    }
    run(commands, whole)
  }

  dispose(): void {
    this.#whole.clear()
    dispose(this.#own)
    dispose(this.#overSlabs)
  }

  #lying(layer: number): number[] {
    const { slabs, table } = this.#parts
    const found = new Set<number>()
    for (const slot of [...table.slotsOf(layer), ...this.#beside(layer)]) found.add(slabs.slabOf(slot))
    return [...found]
  }

  /** Lists of stages, all of them or none. */
  async #bindAll(layer: number, lists: readonly (readonly Stage[])[], slab?: number): Promise<BoundLaunch[][]> {
    const stages = lists.flat()
    const bound = await this.#parts.device.bindAll(
      stages.map(({ launch, buffers }) => ({ launch, buffers: buffers.map((name) => this.#buffer(name, layer, slab)) }))
    )
    return lists.map((list) => bound.splice(0, list.length))
  }

  #buffer(name: BufferName, layer: number, slab: number | undefined): GPUBufferBinding {
    const { slabs, table, scratch, states } = this.#parts
    switch (name) {
      case 'ids':
      case 'weights':
      case 'status':
      case 'blocks':
        return this.#slices(layer)[name]
      case 'x':
      case 'out':
      case 'gateBias':
      case 'upBias':
      case 'downBias':
        return (states[layer] as (typeof states)[number])[name] as GPUBufferBinding
      case 'table':
        return table.binding(layer)
      case 'slab':
        return slabs.binding(slab as number)
      default:
        return scratch.binding(name satisfies ScratchName, layer, this.#tokens)
    }
  }
}

function run(commands: Commands, launches: readonly BoundLaunch[] = []): void {
  for (const launch of launches) commands.run(launch)
}

function dispose(kept: Map<unknown, BoundLaunch[][]>): void {
  for (const lists of kept.values()) for (const launch of lists.flat()) launch.dispose()
  kept.clear()
}

/**
 * A model's experts on the GPU. Hot ones have a slot there, warm ones are in host memory, cold ones in their files. Where every expert has a
 * slot a step runs through; below that each layer's routes are read back, the addon decides (as it does for the CPU: same code, same
 * counters), and what is missing is written before the layer is submitted.
 */

import type { Plan } from '../../../model/plan.js'
import type {
  AdoptedExperts,
  ExpertLayout,
  ExpertOptions,
  ExpertStats,
  ExpertStepShape,
  HostCounts,
  NativeAddon,
  NativeCancel,
  NativeExpertReader,
  NativeExpertSlots,
  NativeGguf,
  PlacedVersions,
  Whereabouts
} from '../../../native.js'
import { validationError } from '../../../validation.js'
import type { Commands, GpuDevice } from '../device.js'
import { quantises } from '../launches/expert-matmul.js'
import { LayerLaunches } from './launches.js'
import { expertOps, layerShapes, Scratch } from './scratch.js'
import { Slabs, slotsPerSlab } from './slabs.js'
import { SlotTable } from './slot-table.js'
import { SpareSlots } from './spare-slots.js'
import type { BiasName } from './stages.js'
import { statsOf, whereaboutsOf } from './stats.js'
import { runLayer, withoutVersions } from './tiered.js'
import { Transfer } from './transfer.js'
import { Versions } from './versions.js'

/** What a step of so many rows binds for a routed layer, beside the plan's buffers. */
export interface LayerSlices {
  /** i32 [rows][k], f32 [rows][k] */
  ids: GPUBufferBinding
  weights: GPUBufferBinding
  status: GPUBufferBinding
  /** The layer's states as its gate and up take them, where `quantises`: shaders/quantise.wgsl writes them. */
  blocks: GPUBufferBinding
}

/** The experts of all layers for steps of so many rows. */
export interface ExpertStep {
  /** Every expert has a slot: the whole of a routed layer's experts, from the routes to the sum in the plan's buffer. */
  encode(commands: Commands, layer: number): void
  /**
   * Not every one has: `ids` are the layer's routes as they were read back. Submits what cannot wait and resolves with what encodes the rest,
   * for the caller's next submit. EXPERT_UNAVAILABLE {experts, wanted, archived}, EXPERT_CORRUPTED, CANCELLED, RESOURCE_BUDGET_TOO_SMALL; then
   * the step is void.
   */
  run(
    layer: number,
    ids: Int32Array,
    step: {
      cancel: NativeCancel
      /** Routes that the next routed layer will probably have, as far as `foresees` wants them: its experts are brought meanwhile. */
      ahead?: Int32Array | undefined
    }
  ): Promise<(commands: Commands) => void>
  dispose(): void
}

export interface LoadExpertsRequest {
  device: GpuDevice
  addon: NativeAddon
  file: NativeGguf
  plan: Plan
  maxBatchTokens: number
  /** The plan's buffers, by name. */
  buffers: (name: string) => GPUBufferBinding
  /** Its vectors, by name: biases. */
  vectors: (name: string) => GPUBufferBinding
  /** Host memory, the policy of both, and the bytes of slots (default: one for every expert). */
  options: ExpertOptions
  /** Most bytes of a slab. Default: what the device lets a shader bind. */
  slabBytes?: number
  cancel: NativeCancel
  onProgress?: ((done: number, count: number, bytesDone: number, bytesTotal: number) => void) | undefined
}

/** What both forms of a step work with. */
export interface ExpertParts {
  device: GpuDevice
  slots: NativeExpertSlots
  slabs: Slabs
  table: SlotTable
  transfer: Transfer
  scratch: Scratch
  /** Per routed layer: a blob's layout, and the plan's buffers that it reads and adds to. */
  layouts: readonly ExpertLayout[]
  states: readonly ({ x: GPUBufferBinding; out: GPUBufferBinding } & Partial<Record<BiasName, GPUBufferBinding>>)[]
}

export class Experts {
  /** Every expert has a slot for good: nothing is decided, and nothing is kept in host memory. */
  readonly resident: boolean
  readonly #parts: ExpertParts
  readonly #reader: NativeExpertReader
  readonly #never: NativeCancel
  readonly #scrubs: boolean
  readonly #versions: Versions
  readonly #spare: SpareSlots
  /** Of the step's requests. */
  #epoch = 0
  /** Since the step began. */
  #scrubbed = true
  /** Experts that are being brought ahead of their demand. */
  #ahead: Promise<void> = Promise.resolve()

  private constructor(
    parts: ExpertParts,
    { addon, options }: Pick<LoadExpertsRequest, 'addon' | 'options'>,
    made: { reader: NativeExpertReader; resident: boolean }
  ) {
    this.#parts = parts
    this.#reader = made.reader
    this.#never = addon.createCancel()
    this.#scrubs = (options.scrub ?? 0) > 0
    this.resident = made.resident
    this.#spare = new SpareSlots(parts, made.resident, options.gpuBudgetBytes ?? Number.MAX_SAFE_INTEGER)
    this.#versions = new Versions({
      parts,
      addon,
      reader: made.resident ? undefined : made.reader,
      blobs: options.blobs,
      spare: this.#spare
    })
  }

  /**
   * Opens the experts, makes their slots and fills them. Throws the errors of openExperts, GPU_LIMIT_EXCEEDED, GPU_VRAM_EXHAUSTED,
   * RESOURCE_BUDGET_TOO_SMALL, EXPERT_CORRUPTED, EXPERT_UNAVAILABLE, CANCELLED; nothing is held then.
   */
  static async load(request: LoadExpertsRequest): Promise<Experts> {
    const { device, addon, file, plan, maxBatchTokens, buffers, vectors, options, cancel, onProgress } = request
    const held: { dispose(): unknown }[] = []
    const keep = <Made extends { dispose(): unknown }>(made: Made): Made => {
      held.push(made)
      return made
    }
    try {
      const reader = keep(await addon.openExperts(file, plan, { experts: options }))
      const { layouts, experts, slotBytes } = reader
      const count = layouts.length * experts
      const { policy, prefetch, seed, traceWords = 0, gpuBudgetBytes = count * slotBytes } = options
      const wanted = Math.min(count, Math.floor(gpuBudgetBytes / slotBytes))
      const slots = reader.createSlots({ slots: wanted, policy, prefetch, seed, traceWords })
      const { slabBytes = device.facts.limits.maxBufferSize } = request
      const limits = { ...device.facts.limits, maxBufferSize: Math.min(slabBytes, device.facts.limits.maxBufferSize) }
      const slabs = keep(new Slabs(device, slotBytes, slotsPerSlab(device.name, slotBytes, experts, limits)))
      await slabs.resize(wanted)
      const table = keep(await SlotTable.make(device, layouts.length, experts))
      const ops = expertOps(plan)
      const shapes = layerShapes(plan, (layer) => {
        const { gate, up, down } = layouts[layer] as ExpertLayout
        return { gate: gate.type, up: up.type, down: down.type }
      })
      const scratch = keep(await Scratch.make(device, shapes, maxBatchTokens))
      const states = ops.map((op) => ({
        x: buffers(op.in),
        out: buffers(op.out),
        ...(op.biases && {
          gateBias: vectors(op.biases.gate),
          upBias: vectors(op.biases.up),
          downBias: vectors(op.biases.down)
        })
      }))
      const transfer = new Transfer({ reader, slots, table, slabs })
      const pinned = options.placement ? slots.place(options.placement) : []
      const items = Uint32Array.from([...pinned, ...slots.fill()])
      table.apply(items)
      await transfer.fill(items, cancel, (done) => onProgress?.(done, wanted, done * slotBytes, wanted * slotBytes))
      for (const layer of layouts.keys()) table.show(layer)
      const resident = table.held === count && traceWords === 0
      if (resident) await reader.dispose()
      const parts = { device, slots, slabs, table, transfer, scratch, layouts, states }
      return new Experts(parts, { addon, options }, { reader, resident })
    } catch (error) {
      for (const made of held.reverse()) await made.dispose()
      throw error
    }
  }

  /** Of GPU memory. */
  get bytes(): number {
    return this.#parts.slabs.bytes + this.#parts.scratch.bytes
  }

  /** Of these, slots. */
  get slotBytes(): number {
    return this.#parts.slabs.bytes
  }

  /** So many bytes of its budget are lent to the KV cache. */
  lend(bytes: number): void {
    this.#spare.lent = bytes
  }

  /** Whether some expert has several versions now. */
  get hasVersions(): boolean {
    return this.#versions.count > 0
  }

  /** Whether a layer takes its states quantised. */
  quantises(layer: number): boolean {
    return quantises(this.#parts.scratch.shape(layer, 1)).input
  }

  /** All launches for steps of so many rows. Throws as GpuDevice.bind. */
  async prepare(rows: number, slices: (layer: number) => LayerSlices): Promise<ExpertStep> {
    const parts = this.#parts
    const layers = new LayerLaunches(parts, rows, slices, (layer) => this.#versions.slots(layer))
    try {
      if (this.resident) await layers.bindLayers()
    } catch (error) {
      layers.dispose()
      throw error
    }
    return {
      encode: (commands, layer) => layers.encode(commands, layer),
      run: async (layer, ids, { cancel, ahead }) => {
        await this.#ahead
        if (!this.#scrubbed) await this.#reader.scrub()
        this.#scrubbed = true
        const encode = await runLayer(parts, layers, layer, ids, this.#beside(layer, ids), cancel)
        if (!ahead) return encode
        return (commands) => {
          encode(commands)
          // Once it is submitted: what is written now does not reach it.
          this.#ahead = Promise.resolve().then(() => this.#foresee(layer + 1, ahead, cancel))
        }
      },
      dispose: () => layers.dispose()
    }
  }

  /** Whether routes that a layer will probably have are of use in this step. */
  foresees(layer: number): boolean {
    return !this.resident && layer < this.#parts.layouts.length && this.#parts.slots.foresees(layer)
  }

  /** Splits what a step is made of into parts, each of which is a step of its own with one version of every expert. */
  byVersions<Item extends { epoch?: number }>(items: readonly Item[]): (readonly Item[])[] {
    return this.#versions.split(items)
  }

  /** A step begins: the unit of time of both caches. `epoch`: of its requests, as placeVersions names them. */
  beginStep(step: ExpertStepShape, epoch = 0): void {
    this.#epoch = epoch
    if (this.resident) {
      for (const layer of this.#versions.layers()) this.#parts.table.show(layer, undefined, this.#beside(layer))
      return
    }
    this.#parts.slots.beginStep(step)
    this.#parts.transfer.beginStep(step)
    this.#scrubbed = !this.#scrubs
  }

  /** Undefined where every expert has a slot for good. */
  stats(): ExpertStats | undefined {
    if (this.resident) return undefined
    return statsOf(this.#parts, this.#reader)
  }

  /** Of host memory alone. */
  hostStats(): HostCounts | undefined {
    return this.resident ? undefined : this.#reader.stats()
  }

  trace(): ReturnType<NativeExpertSlots['trace']> {
    return this.resident ? undefined : this.#parts.slots.trace()
  }

  whereabouts(): Whereabouts | undefined {
    return this.resident ? undefined : whereaboutsOf(this.#parts, this.#reader)
  }

  // Between two steps:

  /** Another budget of GPU memory. RESOURCE_BUDGET_TOO_SMALL, GPU_VRAM_EXHAUSTED; then nothing has changed. */
  async setBudget(bytes: number): Promise<void> {
    const { slabs, slots, table, layouts } = await this.#open()
    if (this.hasVersions)
      throw validationError(
        'setExpertBudget',
        'this',
        'versions',
        'a model none of whose experts has several versions now'
      )
    const wanted = Math.min(layouts.length * table.experts, Math.floor(bytes / slabs.slotBytes))
    if (wanted === slabs.slots) return
    if (wanted > slabs.slots) await slabs.resize(wanted)
    table.clear(slots.resize(wanted))
    // What is left lies anywhere: slots beyond the new end lose what they have.
    const beyond = table.beyond(wanted)
    slots.drop(Uint32Array.from(beyond))
    table.clear(beyond)
    if (wanted >= slabs.slots) return
    try {
      await slabs.resize(wanted)
    } catch (error) {
      // They are empty.
      slots.resize(slabs.slots)
      throw error
    }
  }

  /** Another budget of host memory. RESOURCE_BUDGET_TOO_SMALL, RESOURCE_MEMORY_EXHAUSTED. */
  async setHostBudget(bytes: number): Promise<void> {
    await this.#open()
    await this.#reader.setBudget(bytes)
  }

  /** NativeModel.placeExperts. RESOURCE_BUDGET_TOO_SMALL. */
  async place(placement: Uint8Array): Promise<void> {
    const { slots, table, transfer } = await this.#open()
    const items = slots.place(placement)
    table.apply(items)
    await transfer.bringAhead(items, this.#never)
  }

  /** Gives slots to experts ahead of their use, as far as nothing better has them: [layers][experts], 0 = not this one. */
  async readAhead(wanted: Uint8Array): Promise<void> {
    const { slots, table, transfer, layouts } = await this.#open()
    for (const layer of layouts.keys()) {
      const row = wanted.subarray(layer * table.experts, (layer + 1) * table.experts)
      const ids = [...row.keys()].filter((expert) => row[expert] !== 0)
      if (ids.length === 0) continue
      const items = slots.prefetch(layer, Uint32Array.from(ids))
      table.apply(items)
      await transfer.bringAhead(items, this.#never)
    }
  }

  /**
   * NativeModel.placeVersions. Steps that were prepared before are of no use where every expert has its slot for good. RESOURCE_MEMORY_EXHAUSTED,
   * GPU_VRAM_EXHAUSTED, MODEL_NOT_FOUND, FILE_READ_FAILED, MODEL_CORRUPTED, EXPERT_CORRUPTED; then nothing has changed.
   */
  async placeVersions(experts: readonly PlacedVersions[]): Promise<void> {
    await this.#ahead
    const changed = await this.#versions.place(experts)
    for (const layer of changed) this.#parts.table.show(layer)
  }

  bring(layer: number, expert: number, path: string): void {
    if (!this.resident) this.#reader.bringExpert(layer, expert, path)
  }

  lose(layer: number, expert: number, path: string): void {
    if (!this.resident) this.#reader.loseExpert(layer, expert, path)
  }

  async adopt(places: AdoptedExperts): Promise<void> {
    if (this.resident) return
    await this.#ahead
    await this.#reader.adoptExperts(places)
  }

  /** The parts, once nothing is being brought any more. */
  async #open(): Promise<ExpertParts> {
    const allowed = 'a model that was loaded with gpuMemory'
    if (this.resident) throw validationError('setExpertBudget', 'this', 'webgpu', allowed)
    await this.#ahead
    return this.#parts
  }

  /** Versions that the step uses in place of the first ones; with `ids` of these experts alone. */
  #beside(layer: number, ids?: Int32Array): ReadonlyMap<number, number> {
    const beside = this.#versions.beside(layer, this.#epoch)
    if (beside.size === 0 || !ids) return beside
    const wanted = new Set(ids)
    return new Map([...beside].filter(([expert]) => wanted.has(expert)))
  }

  async #foresee(layer: number, routes: Int32Array, cancel: NativeCancel): Promise<void> {
    const { slots, table, transfer } = this.#parts
    const ids = withoutVersions(routes, this.#versions.beside(layer, this.#epoch))
    const items = slots.foresee(layer, ids)
    table.apply(items)
    await transfer.bringAhead(items, cancel)
  }

  async dispose(): Promise<void> {
    const { slabs, table, scratch } = this.#parts
    await this.#ahead
    scratch.dispose()
    table.dispose()
    slabs.dispose()
    if (!this.resident) await this.#reader.dispose()
  }
}

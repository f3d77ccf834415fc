/**
 * The backend `webgpu` as an engine uses it: models on the GPU, and beside them the CPU's backend, which reads and packs weights, samples, and
 * runs what is asked of it by name.
 */
import { isRouterRole, type Plan } from '../../../model/plan.js'
import type {
  BackendMemory,
  ExpertOptions,
  Isa,
  LoadProgress,
  NativeAddon,
  NativeBackend,
  NativeCancel,
  NativeGguf,
  NativeModel,
  WeightInfo
} from '../../../native.js'
import type { GpuDevice } from '../device.js'
import { Experts } from '../experts/experts.js'
import { Arena, routeOps } from './arena.js'
import { KvShare } from './kv-share.js'
import { GpuModel } from './model.js'
import { Progress } from './progress.js'
import { Routers } from './routers.js'
import { sizesOf, stepBytes } from './step-bytes.js'
import { stackedWeights } from './step-ops.js'
import { GpuWeights } from './weights.js'

export interface GpuModelOptions {
  maxBatchTokens: number
  onProgress?: (progress: LoadProgress) => void
  experts?: ExpertOptions
}

export class WebGpuBackend implements NativeBackend {
  readonly name = 'webgpu'
  readonly memory: BackendMemory
  #device: GpuDevice
  /** What devices did that were opened before this one. */
  readonly #before = { submits: 0, waitedMs: 0, computedMs: 0 }
  readonly #open: () => Promise<GpuDevice>
  readonly #host: NativeBackend
  readonly #addon: NativeAddon

  /** `open` made `device`, and makes the next one. */
  constructor(device: GpuDevice, host: NativeBackend, addon: NativeAddon, open: () => Promise<GpuDevice>) {
    this.#device = device
    this.#open = open
    this.#host = host
    this.#addon = addon
    const now = () => this.#device
    this.memory = {
      get device() {
        return now().name
      },
      available: () => {
        const { memory, info } = now()
        const { limitBytes = Number.MAX_SAFE_INTEGER, usedBytes } = memory
        // An adapter that is the CPU has no memory but the host's.
        const host = info.isFallbackAdapter ? addon.availableMemory() : Number.MAX_SAFE_INTEGER
        return Math.min(limitBytes - usedBytes, host)
      },
      stepBytes: (plan, maxBatchTokens) =>
        stepBytes(plan, maxBatchTokens, now().facts.limits.minStorageBufferOffsetAlignment),
      counts: () => {
        const { submits, waitedMs, computedMs, memory } = now()
        const before = this.#before
        const timed = computedMs !== undefined && { computedMs: before.computedMs + computedMs }
        const done = { submits: before.submits + submits, waitedMs: before.waitedMs + waitedMs, ...timed }
        return { ...done, memoryBytes: memory.usedBytes, buffers: memory.buffers }
      }
    }
  }

  /** The device that models are loaded onto now. */
  get device(): GpuDevice {
    return this.#device
  }

  async reopen(): Promise<void> {
    const last = this.#device
    last.dispose()
    this.#device = await this.#open()
    this.#before.submits += last.submits
    this.#before.waitedMs += last.waitedMs
    this.#before.computedMs += last.computedMs ?? 0
  }

  /** Of the CPU's part. */
  get isa(): Isa {
    return this.#host.isa
  }

  get threads(): number {
    return this.#host.threads
  }

  kernels(): Record<string, Isa> {
    return this.#host.kernels()
  }

  /** Not here: a plan's weights are what the CPU's part describes and reads. */
  describeWeights(file: NativeGguf, plan: Plan): WeightInfo[] {
    return this.#host.describeWeights(file, plan)
  }

  readWeight(...args: Parameters<NativeBackend['readWeight']>): ReturnType<NativeBackend['readWeight']> {
    return this.#host.readWeight(...args)
  }

  /** One kernel on the CPU. */
  call(op: string, args: readonly unknown[], naive: boolean): unknown {
    return this.#host.call(op, args, naive)
  }

  callAsync(op: string, args: readonly unknown[], naive: boolean): Promise<unknown> {
    return this.#host.callAsync(op, args, naive)
  }

  /**
   * Brings every tensor of the plan to the GPU. Throws what GpuWeights.load and Experts.load do, CANCELLED; nothing is held then.
   */
  async loadModel(file: NativeGguf, plan: Plan, options: GpuModelOptions, cancel: NativeCancel): Promise<NativeModel> {
    const { maxBatchTokens } = options
    const { device } = this
    const held: { dispose(): unknown }[] = []
    const keep = <Made extends { dispose(): unknown }>(made: Made): Made => {
      held.push(made)
      return made
    }
    try {
      const weights = keep(
        new GpuWeights({ device, host: this.#host, file, plan, stacked: stackedWeights(plan), cancel })
      )
      const progress = new Progress(file, plan, weights.infos, options.onProgress)
      const isRouter = new Set(plan.tensors.flatMap(({ name, role }) => (isRouterRole(role) ? [name] : [])))
      const load = async (routers: boolean) => {
        for (const info of weights.infos) {
          if (isRouter.has(info.name) !== routers) continue
          await weights.load(info)
          progress.loaded(info)
        }
      }
      const arena = keep(await Arena.make(device, sizesOf(plan, maxBatchTokens)))
      await load(false)
      const experts = await this.#experts(device, file, plan, options, arena, weights, progress, cancel)
      if (experts) keep(experts)
      await load(true)
      const routers = keep(await Routers.make(device, plan, weights))
      await weights.finish()
      const { gpuBudgetBytes, gpuParts } = options.experts ?? {}
      const kvShare =
        gpuBudgetBytes !== undefined && gpuParts
          ? new KvShare(device, experts, { gpuBudgetBytes, gpuParts })
          : undefined
      return new GpuModel({ device, host: this.#host, plan, maxBatchTokens, weights, routers, arena, experts, kvShare })
    } catch (error) {
      for (const made of held.reverse()) await made.dispose()
      throw error
    }
  }

  async #experts(
    device: GpuDevice,
    file: NativeGguf,
    plan: Plan,
    { maxBatchTokens, experts: options }: GpuModelOptions,
    arena: Arena,
    weights: GpuWeights,
    progress: Progress,
    cancel: NativeCancel
  ): Promise<Experts | undefined> {
    if (!options || routeOps(plan).length === 0) return undefined
    return Experts.load({
      device,
      addon: this.#addon,
      file,
      plan,
      maxBatchTokens,
      buffers: (name) => arena.buffer(name),
      vectors: (name) => ({ buffer: weights.get(name).buffer }),
      options,
      cancel,
      onProgress: (done, _, bytesDone) => progress.expertsLoaded(done, bytesDone)
    })
  }

  dispose(): void {
    this.device.dispose()
    this.#host.dispose()
  }
}

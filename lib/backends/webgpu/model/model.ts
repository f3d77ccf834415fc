/** A model on the GPU: NativeModel (lib/native/model.ts) in TypeScript, on the launches of this backend. */
import type { EngineError } from '../../../errors/index.js'
import { createError } from '../../../errors/index.js'
import { pagePositions } from '../../../kernels/layout.js'
import type { Plan } from '../../../model/plan.js'
import type {
  AdoptedExperts,
  ExpertStats,
  ExpertUse,
  KvType,
  NativeBackend,
  NativeCancel,
  NativeModel,
  NativeSequence,
  PlacedVersions,
  RoutingShape,
  StepItem,
  StepResult,
  Whereabouts
} from '../../../native.js'
import { validationError } from '../../../validation.js'
import type { GpuDevice } from '../device.js'
import type { Experts } from '../experts/experts.js'
import { Turns } from '../turns.js'
import { type Arena, routeOps } from './arena.js'
import { checkEnabled } from './enabled.js'
import { attentionOps, KvPool, pageBytes } from './kv-pool.js'
import type { KvShare } from './kv-share.js'
import { rotationsOf } from './rotations.js'
import type { Routers } from './routers.js'
import { Sampler } from './sampler.js'
import { GpuSequence } from './sequence.js'
import { Shapes } from './shapes.js'
import { Stepper } from './stepper.js'
import { UseCounts } from './use-counts.js'
import type { GpuWeights } from './weights.js'

/** What a model is made of once its weights are on the GPU; it owns all but the device and the host. */
export interface ModelParts {
  device: GpuDevice
  /** The CPU's backend: it samples, and makes the tables of rotations. */
  host: NativeBackend
  plan: Plan
  maxBatchTokens: number
  weights: GpuWeights
  routers: Routers
  arena: Arena
  experts: Experts | undefined
  /** Of a model that may take no more than so much GPU memory. */
  kvShare: KvShare | undefined
}

export const routingOf = (plan: Plan): RoutingShape => {
  const routes = routeOps(plan)
  const first = routes[0]
  const experts = first ? (plan.tensors.find(({ name }) => name === first.weight)?.shape[1] ?? 0) : 0
  return { layers: routes.length, experts, k: first?.k ?? 0 }
}

/** Bytes of one position of a sequence's KV cache. */
export const keyValueBytes = (plan: Plan, type: KvType): number =>
  attentionOps(plan).reduce((sum, op) => sum + pageBytes(op, type) / pagePositions, 0)

export class GpuModel implements NativeModel {
  readonly routing: RoutingShape
  readonly kvBytesPerToken: Record<KvType, number>
  readonly hostTier: NonNullable<NativeModel['hostTier']> = {
    stats: () => {
      this.#check()
      return this.#parts.experts?.hostStats()
    },
    setBudget: (bytes) => this.#between((experts) => experts.setHostBudget(bytes))
  }
  readonly #parts: ModelParts
  readonly #turns = new Turns()
  readonly #pools = new Map<KvType, KvPool>()
  readonly #shapes: Shapes
  readonly #stepper: Stepper
  readonly #use: UseCounts
  /** Masks that were found to leave enough experts. */
  readonly #checked = new WeakSet<Uint8Array>()
  #disposed: Promise<void> | undefined

  constructor(parts: ModelParts) {
    const { device, host, plan, maxBatchTokens, weights, routers, arena, experts } = parts
    this.#parts = parts
    this.routing = routingOf(plan)
    this.kvBytesPerToken = { f16: keyValueBytes(plan, 'f16'), f32: keyValueBytes(plan, 'f32') }
    this.#use = new UseCounts(this.routing)
    const rotations = rotationsOf(plan, host, (name) => weights.vector(name))
    this.#shapes = new Shapes({ device, plan, weights, arena, experts, rotations, routers: routers.layers })
    this.#stepper = new Stepper({
      device,
      arena,
      shapes: this.#shapes,
      experts,
      rotations,
      sampler: new Sampler(host),
      use: this.#use,
      limits: {
        vocab: plan.vocab,
        maxBatchTokens,
        routing: this.routing,
        checkEnabled: (mask) => this.checkEnabled(mask)
      }
    })
  }

  get weightBytes(): number {
    this.#check()
    const { weights, experts } = this.#parts
    return weights.bytes + (experts?.bytes ?? 0)
  }

  checkEnabled(enabled: Uint8Array): void {
    this.#check()
    if (this.#checked.has(enabled)) return
    checkEnabled(routeOps(this.#parts.plan), this.routing, enabled)
    this.#checked.add(enabled)
  }

  expertUse(): ExpertUse {
    this.#check()
    return this.#use.read()
  }

  expertStats(): ExpertStats | undefined {
    this.#check()
    return this.#parts.experts?.stats()
  }

  expertTrace(): ReturnType<NativeModel['expertTrace']> {
    this.#check()
    return this.#parts.experts?.trace()
  }

  setExpertBudget(bytes: number): Promise<void> {
    return this.#between(async (experts) => experts.setBudget(bytes))
  }

  placeExperts(placement: Uint8Array): Promise<void> {
    return this.#between(async (experts) => experts.place(placement))
  }

  bringExpert(layer: number, expert: number, path: string): void {
    this.#check()
    this.#parts.experts?.bring(layer, expert, path)
  }

  loseExpert(layer: number, expert: number, path: string): void {
    this.#check()
    this.#parts.experts?.lose(layer, expert, path)
  }

  adoptExperts(places: AdoptedExperts): Promise<void> {
    return this.#between(async (experts) => experts.adopt(places))
  }

  readAhead(wanted: Uint8Array): Promise<void> {
    return this.#between(async (experts) => experts.readAhead(wanted))
  }

  placeVersions(lists: PlacedVersions[]): Promise<void> {
    return this.#between(async (experts) => {
      await experts.placeVersions(lists)
      await this.#parts.kvShare?.settle()
      // What is bound to the slots as they were.
      if (experts.resident) this.#shapes.forgetSteps()
    })
  }

  whereabouts(): Whereabouts | undefined {
    this.#check()
    return this.#parts.experts?.whereabouts()
  }

  createSequence(options: { kvType: KvType; maxTokens: number; captureRouting?: boolean }): NativeSequence {
    this.#check()
    const { kvType, maxTokens, captureRouting = false } = options
    if (kvType !== 'f16' && kvType !== 'f32') throw validationError('createSequence', 'kvType', kvType, 'f16 or f32')
    if (!Number.isSafeInteger(maxTokens) || maxTokens < 1) {
      throw validationError('createSequence', 'maxTokens', maxTokens, 'an integer from 1 on')
    }
    return new GpuSequence(this.#pool(kvType), maxTokens, this.routing, captureRouting)
  }

  warmUp(kvType: KvType, onProgress: (done: number, count: number) => void): Promise<void> {
    return this.#turns.run(async () => {
      this.#check()
      const { pipelines } = this.#parts.device
      await pipelines.watched(onProgress, () => this.#shapes.warmUp(this.#pool(kvType)))
    })
  }

  async step(items: StepItem[], cancel: NativeCancel): Promise<StepResult> {
    return this.#turns.run(async () => {
      this.#check()
      return this.#stepper.run(items, cancel)
    })
  }

  dispose(): Promise<void> {
    this.#disposed ??= this.#turns.run(async () => {
      const { device, weights, routers, arena, experts } = this.#parts
      this.#shapes.dispose()
      this.#stepper.dispose()
      for (const pool of this.#pools.values()) pool.dispose()
      await experts?.dispose()
      arena.dispose()
      routers.dispose()
      weights.dispose()
      // What its logits were read back through.
      device.memory.trim()
    })
    return this.#disposed
  }

  #pool(type: KvType): KvPool {
    const known = this.#pools.get(type)
    if (known) return known
    const { device, plan, kvShare } = this.#parts
    const pool = new KvPool(device, type, attentionOps(plan), kvShare?.room())
    this.#pools.set(type, pool)
    return pool
  }

  /** Something that is done to the experts between two steps. */
  #between(work: (experts: Experts) => Promise<void>): Promise<void> {
    return this.#turns.run(async () => {
      this.#check()
      const { experts } = this.#parts
      if (experts) await work(experts)
    })
  }

  #check(): void {
    if (this.#disposed) throw disposedError()
  }
}

const disposedError = (): EngineError =>
  createError('MODEL_NOT_LOADED', 'this: the model was disposed', { model: null, loaded: [] })

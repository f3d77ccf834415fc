/** The state of an engine in other processes: that of the engines there, and recovering while there is none. */
import type { FreezeOptions } from '../engine/maintenance.js'
import { disposedError } from '../engine/parts.js'
import type { EngineState, Transition } from '../lifecycle.js'
import type { Telemetry } from '../telemetry/telemetry.js'
import type { Pool } from './pool.js'
import type { Mirror, MirroredModel } from './protocol.js'
import type { Worker } from './supervisor.js'

export class RemoteState {
  /** Of maintenance that was asked for: what new processes are told, and requests. */
  frozen: { retryAfterSeconds: number; options: FreezeOptions } | undefined
  #now: EngineState = 'init'
  #ended: 'draining' | 'closed' | undefined
  readonly #pool: Pool
  readonly #telemetry: Telemetry
  readonly #onTransition: ((transition: Transition) => void) | undefined

  constructor(pool: Pool, telemetry: Telemetry, onTransition: ((transition: Transition) => void) | undefined) {
    this.#pool = pool
    this.#telemetry = telemetry
    this.#onTransition = onTransition
  }

  get now(): EngineState {
    return this.#now
  }

  /** What the first worker that is ready said last; of those that are started again, what was said before. */
  get mirror(): Mirror {
    const { workers } = this.#pool
    const worker = workers.find(({ state }) => state === 'ready') ?? workers.find(({ mirror }) => mirror !== undefined)
    return worker!.mirror!
  }

  /** The models of the workers that are not given up, each as the first says that has it: of those that are ready, then of those that died. */
  get models(): MirroredModel[] {
    const isReady = ({ state }: Worker) => state === 'ready'
    const alive = this.#pool.workers.filter(({ state }) => state !== 'failed')
    const inOrder = [...alive.filter(isReady), ...alive.filter((worker) => !isReady(worker))]
    const models = new Map<string, MirroredModel>()
    for (const model of inOrder.flatMap(({ mirror }) => mirror?.models ?? [])) {
      if (!models.has(model.info.id)) models.set(model.info.id, model)
    }
    return [...models.values()]
  }

  /** Throws ENGINE_DISPOSED, and WORKER_RESTARTS_EXHAUSTED where no worker is left. */
  checkOpen(method: string): void {
    if (this.#ended) throw disposedError(method)
    if (this.#now === 'closed') throw this.#pool.failure()
  }

  /** Something changed in a worker. */
  refresh(reason: string): void {
    if (!this.#ended) this.#move(this.#look(), reason)
  }

  end(state: 'draining' | 'closed', reason: string): void {
    this.#ended = state
    this.#move(state, reason)
  }

  #look(): EngineState {
    const { workers } = this.#pool
    // One that closed by itself is about to be started again.
    const ready = workers.flatMap(({ engineState }) => engineState ?? []).filter((state) => state !== 'closed')
    if (ready.length > 0) return ready.find((state) => state !== 'recovering') ?? ready[0]!
    if (workers.every(({ state }) => state === 'failed')) return 'closed'
    return workers.some(({ state }) => state === 'restarting') ? 'recovering' : this.#now
  }

  #move(next: EngineState, reason: string): void {
    const previous = this.#now
    if (next === previous) return
    this.#now = next
    if (next === 'recovering' || previous === 'recovering') {
      const fields = { from: previous, to: next, reason }
      this.#telemetry.event('engine_state', `the engine is ${next}: ${reason}`, fields)
    }
    try {
      this.#onTransition?.({ previous, next, reason, at: Date.now() })
    } catch {
      // A listener's own failure is not the engine's.
    }
  }
}

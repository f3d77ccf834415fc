/** The workers of an engine, and which of them gets what. */
import { performance } from 'node:perf_hooks'
import type { EngineError } from '../errors/index.js'
import { isEngineError } from '../errors/index.js'
import { refusal } from '../resilience/admission-errors.js'
import type { RemoteStream } from './remote-stream.js'
import type { Worker } from './supervisor.js'

/** Milliseconds for which a worker that refused a request is asked for none. */
const refusingMs = 1000
/** HTTP status of what a worker refuses for lack of something. */
const refusedStatus = 503

export class Pool {
  readonly workers: readonly Worker[]

  constructor(workers: readonly Worker[]) {
    this.workers = workers
  }

  /** Those that are not given up. Throws WORKER_RESTARTS_EXHAUSTED where none is left. */
  alive(): Worker[] {
    const alive = this.workers.filter(({ state }) => state !== 'failed')
    if (alive.length === 0) throw this.failure()
    return alive
  }

  /**
   * One for a single call on a model: of those that have it the one with the fewest streams that is ready, else the first that will be. Where none
   * has it, any. Throws WORKER_RESTARTS_EXHAUSTED.
   */
  any(model: unknown): Worker {
    const having = this.#having(model)
    return leastBusy(this.#taking(having)) ?? having[0]!
  }

  /**
   * Opens a stream on the ready worker with the fewest that has its model, and on the next one where that refuses it. Throws SERVICE_UNAVAILABLE
   * {reason: workers} where none takes it, WORKER_RESTARTS_EXHAUSTED, and what opening throws.
   */
  async place(stream: RemoteStream): Promise<Worker> {
    const refused: Worker[] = []
    let last: unknown
    for (;;) {
      const having = this.#having(stream.setup.model)
      const worker = leastBusy(this.#taking(having.filter((own) => !refused.includes(own))))
      if (!worker) {
        if (refused.length > 0 && this.workers.length === 1) throw last
        throw this.#refusal(last)
      }
      try {
        await worker.streams.open(stream)
        return worker
      } catch (error) {
        if (!isEngineError(error) || error.httpStatus !== refusedStatus) throw error
        worker.refusingUntil = performance.now() + refusingMs
        refused.push(worker)
        last = error
      }
    }
  }

  /** Why no worker is left. */
  failure(): EngineError {
    return this.workers.find(({ failure }) => failure)!.failure!
  }

  /** Those alive that have a model, or had it when they died: one that could not load it again would end what it gets. Where none has, all. */
  #having(model: unknown): Worker[] {
    const alive = this.alive()
    const having = alive.filter(({ mirror }) => mirror?.models.some(({ info }) => info.id === model))
    return having.length > 0 ? having : alive
  }

  #taking(of: readonly Worker[]): Worker[] {
    const now = performance.now()
    const taking = of.filter(
      (worker) =>
        worker.serving?.condemned === false &&
        // Its state moves on with the next call only, and streams are none.
        worker.breaker.snapshot().retryAfterMs === 0 &&
        (worker.refusingUntil <= now || this.workers.length === 1)
    )
    // One whose step is stuck would end what it gets.
    const sound = taking.filter(({ engineState }) => engineState !== 'recovering')
    return sound.length > 0 ? sound : taking
  }

  #refusal(cause: unknown): EngineError {
    const limit = this.workers.length
    const current = this.workers.filter(({ state }) => state === 'ready').length
    return refusal('workers', { required: 1, available: 0, current, limit }, undefined, cause)
  }
}

const leastBusy = (workers: readonly Worker[]): Worker | undefined =>
  workers.reduce<Worker | undefined>(
    (best, own) => (best && best.streams.size <= own.streams.size ? best : own),
    undefined
  )

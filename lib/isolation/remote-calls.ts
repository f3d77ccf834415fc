/** Calls of an engine's methods in its workers: with deadlines, retries where a repetition changes nothing, and an end for what is cancelled. */
import { createError, isEngineError } from '../errors/index.js'
import type { CallOptions } from '../generation/options.js'
import type { LoadProgress } from '../native.js'
import { Deadline } from '../resilience/deadline.js'
import { profiles } from '../resilience/profiles.js'
import type { RetryEvent } from '../resilience/retry.js'
import { withResilience } from '../resilience/with-resilience.js'
import type { KeepAlive } from './keep-alive.js'
import type { Pool } from './pool.js'
import type { Worker } from './supervisor.js'
import { asToldOf } from './values.js'
import type { WorkerMethod } from './worker-engine.js'

/** Milliseconds that a short call may take. Source: SEEDS 1.3. */
const unaryMs = 30_000

/** Methods that are tried again: a repetition changes nothing. */
const idempotent: ReadonlySet<WorkerMethod> = new Set(['tokenize', 'detokenize', 'tokenBytes', 'forward', 'perplexity'])
/** What took too long, or crashed, would do so again. */
const whereBroken = { ...profiles.rpc.retry, retryableErrors: ['TransportError'] }
/** Methods that take as long as they take. */
const long: ReadonlySet<WorkerMethod> = new Set([
  'loadModel',
  'swapModel',
  'unloadModel',
  'activateTierSet',
  'pinExperts',
  'expand',
  'swapExperts',
  'persistExperts',
  'forward',
  'perplexity',
  'freeze',
  'recover'
])

export interface RemoteCall extends Pick<CallOptions, 'signal'> {
  /** Of the first worker. */
  onProgress?: ((progress: LoadProgress) => void) | undefined
}

export interface AllOptions {
  /** All have done it: it is noted here for workers that are started again, and done again by one that was meanwhile. */
  done?: () => void
  /** Where another one failed. */
  undo?: (worker: Worker, value: unknown) => Promise<unknown>
}

export class RemoteCalls {
  readonly #pool: Pool
  readonly #keepAlive: KeepAlive
  readonly #cleanupMs: number
  readonly #onRetry: (method: WorkerMethod, event: RetryEvent) => void

  constructor(
    pool: Pool,
    keepAlive: KeepAlive,
    cleanupMs: number,
    onRetry: (method: WorkerMethod, event: RetryEvent) => void
  ) {
    this.#pool = pool
    this.#keepAlive = keepAlive
    this.#cleanupMs = cleanupMs
    this.#onRetry = onRetry
  }

  /** On one worker, as soon as it is ready. */
  one(worker: Worker, method: WorkerMethod, args: unknown, call: RemoteCall = {}): Promise<unknown> {
    return this.#keepAlive.during(async () => {
      const deadline = Deadline.after(long.has(method) ? undefined : unaryMs, { method, signal: call.signal })
      try {
        await worker.ready(deadline.signal)
        const { breaker } = worker
        const onRetry = (event: RetryEvent): void => this.#onRetry(method, event)
        const retry = idempotent.has(method) ? { ...whereBroken, onRetry } : undefined
        // A caller's abort is answered by the worker, when what it did has ended.
        const within = call.signal ? undefined : deadline
        return await withResilience(() => this.#attempt(worker, method, args, call, deadline), {
          breaker,
          retry,
          deadline: within
        })
      } finally {
        deadline[Symbol.dispose]()
      }
    })
  }

  /** On whichever worker that has a model has the least to do. */
  any(method: WorkerMethod, model: unknown, args: unknown, call: RemoteCall = {}): Promise<unknown> {
    return this.#keepAlive.during(async () => this.one(this.#pool.any(model), method, args, call))
  }

  /** On all that are not given up, at the same time. The first one's result, or the first error. */
  all(method: WorkerMethod, args: unknown, call: RemoteCall = {}, options: AllOptions = {}): Promise<unknown> {
    return this.#keepAlive.during(() => this.#all(method, args, call, options))
  }

  async #all(method: WorkerMethod, args: unknown, call: RemoteCall, { done, undo }: AllOptions): Promise<unknown> {
    const workers = this.#pool.alive()
    const { onProgress, ...rest } = call
    const answers = await Promise.allSettled(
      workers.map(async (worker, i) => {
        const value = await this.one(worker, method, args, i === 0 ? call : rest)
        return { worker, value, by: worker.serving }
      })
    )
    const answered = answers.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : []))
    const failed = answers.find((answer) => answer.status === 'rejected')
    if (failed) {
      await Promise.allSettled(answered.map(({ worker, value }) => undo?.(worker, value)))
      throw failed.reason
    }
    const { value } = answered[0]!
    if (!done) return value
    done()
    // One that was started again while others took their time had not heard of it.
    const others = answered.filter(({ worker, by }) => worker.serving !== undefined && worker.serving !== by)
    await Promise.all(others.map(({ worker }) => this.one(worker, method, args, rest)))
    return value
  }

  async #attempt(
    worker: Worker,
    method: WorkerMethod,
    args: unknown,
    { signal, onProgress }: RemoteCall,
    deadline: Deadline
  ): Promise<unknown> {
    let late: NodeJS.Timeout | undefined
    const onAbort = (): void => {
      // Native work that does not end has to be ended with its process.
      late = setTimeout(() => worker.kill(), this.#cleanupMs)
    }
    deadline.signal.addEventListener('abort', onAbort, { once: true })
    try {
      // Tried again after its process broke, it is the next one's.
      await worker.ready(deadline.signal)
      return await worker.call(`engine.${method}`, args, { signal: deadline.signal, onProgress })
    } catch (error) {
      if (!signal?.aborted || !isEngineError(error) || error.code !== 'CANCELLED') throw error
      const { message, details, timestamp } = error
      throw asToldOf(createError('CANCELLED', message, details, { timestamp, cause: signal.reason }), error)
    } finally {
      clearTimeout(late)
      deadline.signal.removeEventListener('abort', onAbort)
    }
  }
}

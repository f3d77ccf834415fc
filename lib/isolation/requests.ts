/** The generations of an engine in other processes: checked, given a place, and ended by abort, deadline or the engine's end. */
import { randomUUID } from 'node:crypto'
import { performance } from 'node:perf_hooks'
import type { EngineError, ErrorCode } from '../errors/index.js'
import { createError, createTimeoutError, isEngineError } from '../errors/index.js'
import type { Generator } from '../generation/generator.js'
import type { CallOptions, CheckedRequest } from '../generation/options.js'
import { checkCall, checkRequest, copyTokens } from '../generation/options.js'
import { reading } from '../validation.js'
import type { KeepAlive } from './keep-alive.js'
import type { Pool } from './pool.js'
import { RemoteGenerator } from './remote-generator.js'
import type { StreamSetup } from './remote-stream.js'
import { RemoteStream } from './remote-stream.js'
import { StreamRegistry } from './stream-registry.js'
import type { Worker } from './supervisor.js'

/** Ends of a stream that the journal has as the request's end too. */
const endedByCaller: ReadonlySet<ErrorCode> = new Set(['CANCELLED', 'INFERENCE_TIMEOUT'])

export interface RequestsOptions {
  pool: Pool
  keepAlive: KeepAlive
  /** Streams at a time, of all workers. */
  most: number
  /** Milliseconds of a stream whose call has no timeoutMs. */
  timeoutMs: number
  /** Throws where no request may begin: ENGINE_DISPOSED, ENGINE_FROZEN. */
  check(method: string): void
  /** Throws MODEL_NOT_LOADED. */
  checkModel(model: string): void
  tell(error: unknown, method: string): unknown
  /** With a journal: which worker has a request. */
  owners?: Map<string, Worker> | undefined
  /** Milliseconds for which a journal keeps a request that has ended. */
  retentionMs: number
}

export class RemoteRequests {
  readonly #options: RequestsOptions
  readonly #registry: StreamRegistry
  readonly #streams = new Map<string, RemoteStream>()
  /** When requests ended that have an owner (of the monotonic clock), the earliest first. */
  readonly #ended = new Map<string, number>()
  #lastId = 0

  constructor(options: RequestsOptions) {
    this.#options = options
    this.#registry = new StreamRegistry(options.most)
  }

  /** Throws VALIDATION_ERROR, MODEL_NOT_LOADED, ENGINE_FROZEN, ENGINE_DISPOSED; the rest of createGenerator's errors come with the first item. */
  create(method: string, request: unknown, options: CallOptions): Generator {
    const { check, checkModel, tell } = this.#options
    try {
      check(method)
      const checked = checkRequest(method, request)
      const call = checkCall(method, options)
      checkModel(checked.model)
      const { model, requestId = randomUUID(), promptTokens } = checked
      const stream = this.#stream({
        requestId,
        model,
        method,
        kind: 'create',
        request: reading(method, () => requestForm(checked)),
        from: 0,
        promptTokens: promptTokens?.length ?? 0
      })
      return new RemoteGenerator(stream, () => this.#begin(stream, call))
    } catch (error) {
      throw tell(error, method)
    }
  }

  /** A request of a worker's journal. Whoever has its iterator now gets CANCELLED. Throws what resumeGenerator does. */
  async resume(worker: Worker, requestId: string, from: number, call: CallOptions): Promise<Generator> {
    const method = 'resumeGenerator'
    const text = `${method} has taken the request ${requestId} over`
    await this.#streams.get(requestId)?.cancel(() => createError('CANCELLED', text, { requestId, method }))
    const setup = { requestId, model: '', method, kind: 'resume' as const, request: {}, from, promptTokens: 0 }
    const stream = this.#stream(setup)
    try {
      await this.#options.keepAlive.during(() => openOn(worker, stream))
      this.#options.owners?.set(requestId, worker)
      this.#ended.delete(requestId)
    } catch (error) {
      await stream.cancel()
      throw error
    }
    return new RemoteGenerator(stream, () => this.#begin(stream, call))
  }

  #stream(setup: Omit<StreamSetup, 'id' | 'keepAlive' | 'told'>): RemoteStream {
    const { keepAlive, tell } = this.#options
    const told = (error: unknown) => tell(error, setup.method)
    return new RemoteStream({ ...setup, id: ++this.#lastId, keepAlive, told })
  }

  /** The consumer has asked for the first item. */
  #begin(stream: RemoteStream, call: CallOptions): void {
    const { check, timeoutMs: longest, keepAlive } = this.#options
    const { requestId, method, kind } = stream.setup
    const { signal, timeoutMs = longest } = call
    check(method)
    const cancelled = (): EngineError => {
      const partial = stream.partial()
      const text = `the caller aborted after ${(partial.tokens as number[]).length} tokens`
      return createError('CANCELLED', text, partial, { cause: signal?.reason })
    }
    if (signal?.aborted) throw cancelled()
    const began = performance.now()
    const place = this.#registry.open(requestId, timeoutMs, () => {
      const duration = performance.now() - began
      void stream.cancel(() => timeoutError(stream, timeoutMs, duration))
    })
    this.#streams.set(requestId, stream)
    this.#ended.delete(requestId)
    const onAbort = (): void => void stream.cancel(cancelled)
    signal?.addEventListener('abort', onAbort, { once: true })
    stream.onEnd(() => {
      place.close()
      this.#streams.delete(requestId)
      signal?.removeEventListener('abort', onAbort)
      this.#forgetLater(stream)
    })
    stream.begin()
    if (kind === 'create') void keepAlive.during(() => this.#place(stream))
  }

  /** An owner is forgotten with what its journal has of the request. One that no process could end there stays. */
  #forgetLater({ setup: { requestId }, failure }: RemoteStream): void {
    const { owners, retentionMs } = this.#options
    const isOver = failure === undefined || (isEngineError(failure) && endedByCaller.has(failure.code))
    if (!isOver || !owners?.get(requestId)?.serving) return
    const now = performance.now()
    this.#ended.set(requestId, now)
    for (const [earlier, at] of this.#ended) {
      if (now - at <= retentionMs) return
      this.#ended.delete(earlier)
      owners.delete(earlier)
    }
  }

  async #place(stream: RemoteStream): Promise<void> {
    const { pool, owners } = this.#options
    const { requestId } = stream.setup
    try {
      // Whether an id that it had is free again, the worker knows whose journal has it.
      const owner = owners?.get(requestId)
      if (owner) return await openOn(owner, stream)
      const worker = await pool.place(stream)
      owners?.set(requestId, worker)
    } catch (error) {
      stream.fail(error)
    }
  }
}

/** As soon as it is ready. */
async function openOn(worker: Worker, stream: RemoteStream): Promise<void> {
  await worker.ready()
  await worker.streams.open(stream)
}

/** A checked request in the form that createGenerator takes, with copies of what is the caller's. */
function requestForm({
  requestId: _,
  logprobs: __,
  topLogprobs,
  prompt,
  promptTokens,
  replayRouting,
  ...rest
}: CheckedRequest) {
  return {
    ...rest,
    ...(topLogprobs >= 0 && { logprobs: true, topLogprobs }),
    ...(prompt !== undefined && { prompt: typeof prompt === 'string' ? prompt : Uint8Array.from(prompt) }),
    ...(promptTokens && { promptTokens: copyTokens(promptTokens) }),
    ...(replayRouting && {
      replayRouting: { ...replayRouting, ids: replayRouting.ids.slice(), weights: replayRouting.weights.slice() }
    })
  }
}

function timeoutError(stream: RemoteStream, timeout: number, duration: number): EngineError {
  const { method, requestId } = stream.setup
  const partial = stream.partial()
  const count = (partial.tokens as number[]).length
  const text = `${method}: no end after ${Math.round(duration)} ms, of ${timeout} ms allowed; ${count} tokens generated`
  const details = { ...partial, method, timeout, requestId, duration, deadline: 'request' }
  return createTimeoutError('INFERENCE_TIMEOUT', text, details)
}

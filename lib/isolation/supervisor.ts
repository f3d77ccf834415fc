/** One worker over the lives of its processes: it is started again after a death, gets its models back, and its streams go on. */
import { performance } from 'node:perf_hooks'
import type { EngineError } from '../errors/index.js'
import { createError, isEngineError } from '../errors/index.js'
import type { EngineState } from '../lifecycle.js'
import type { Counters, LoadProgress } from '../native.js'
import { packageVersion } from '../native.js'
import { retryDelay, systemRandom } from '../resilience/backoff.js'
import { CircuitBreaker } from '../resilience/breaker.js'
import { systemClock } from '../resilience/clock.js'
import { profiles } from '../resilience/profiles.js'
import type { Telemetry } from '../telemetry/telemetry.js'
import { writeCrashRecord } from './crash-record.js'
import type { EndParams, Heartbeat, InitializeParams, InitializeResult, ItemParams, Mirror } from './protocol.js'
import type { RemoteStream, StreamLink } from './remote-stream.js'
import type { RpcPeer } from './rpc.js'
import type { IsolationSettings } from './settings.js'
import { decodeTokens } from './tokens.js'
import { deathError, exhaustedError } from './worker-errors.js'
import type { WorkerCrash, WorkerInfo, WorkerState } from './worker-info.js'
import type { Death } from './worker-process.js'
import { WorkerProcess } from './worker-process.js'

/** Restarts are a quarter sooner or later, so that workers that died together do not come back together. */
const jitter = 0.25

/** What the workers of an engine share. */
export interface Supervision {
  settings: IsolationSettings
  telemetry: Telemetry
  crashFolder: string
  /** Milliseconds that work may take to end once it was told to. */
  cleanupMs: number
  /** What a process of a worker begins with. */
  parameters(index: number, keep: string[]): InitializeParams
  /** File of the audit log of a worker. */
  audit(index: number): string | undefined
  /** Attaches what hooks of the engine want to hear. */
  listen(rpc: RpcPeer): void
  /** Gives a new process what the engine was told. */
  reconcile(worker: Worker): Promise<void>
  /** After streams go on. */
  resumed(worker: Worker): void
  /** The state of a worker, or of the engine in it, changed. */
  changed(reason: string): void
}

export interface WorkerCall {
  /** Asks the worker to cancel; its answer is then that it did. */
  signal?: AbortSignal | undefined
  onProgress?: ((progress: LoadProgress) => void) | undefined
}

export class Worker implements StreamLink {
  readonly index: number
  /** Of the process that is there now: its failures say nothing about the next one. */
  breaker: CircuitBreaker
  /** What its engine said last; of one that is being started again, what the one before it said. */
  mirror: Mirror | undefined
  #next: Mirror | undefined
  /** It refused a request for lack of something, and is not asked again before (of the monotonic clock). */
  refusingUntil = 0
  readonly #shared: Supervision
  readonly #streams = new Map<number, RemoteStream>()
  /** Of calls under way, by their ids. */
  readonly #progress = new Map<number, (progress: LoadProgress) => void>()
  readonly #stopped = new AbortController()
  #process: WorkerProcess | undefined
  #state: WorkerState = 'starting'
  #restarts = 0
  /** Starts since it last served for long. */
  #attempts = 0
  #readyAt = 0
  #counters: Counters | undefined
  #lastCrash: WorkerCrash | null = null
  #failure: EngineError | undefined
  /** Settles when a restart that is under way has ended. */
  #restarting: Promise<void> | undefined

  constructor(index: number, shared: Supervision) {
    this.index = index
    this.#shared = shared
    this.breaker = this.#newBreaker()
  }

  get state(): WorkerState {
    return this.#state
  }

  /** Of the engine in it, while it is ready. */
  get engineState(): EngineState | undefined {
    return this.#state === 'ready' ? this.mirror?.state : undefined
  }

  get streams(): number {
    return this.#streams.size
  }

  /** Why it is given up. */
  get failure(): EngineError | undefined {
    return this.#failure
  }

  info(): WorkerInfo {
    const pid = this.#process?.pid ?? null
    const [index, state, restarts, lastCrash] = [this.index, this.#state, this.#restarts, this.#lastCrash]
    return { index, pid, state, restarts, streams: this.streams, lastCrash }
  }

  /** The first start. WORKER_BINARY_NOT_FOUND, WORKER_SPAWN_FAILED, WORKER_INIT_CRASHED, WORKER_START_TIMEOUT, and what createEngine throws. */
  async start(): Promise<InitializeResult> {
    const result = await this.#launch()
    this.#serve()
    return result
  }

  /** The first ready process's turn. Rejects with the reason where there will be none, and with that of the signal. */
  async ready(signal?: AbortSignal): Promise<void> {
    while (this.#state === 'restarting') {
      const aborted = new Promise<never>((_, reject) => {
        signal?.addEventListener('abort', () => reject(signal.reason), { once: true })
      })
      signal?.throwIfAborted()
      await Promise.race([this.#restarting, aborted])
    }
    if (this.#failure) throw this.#failure
  }

  /** The result of a method. Rejects with its error, or that of the worker's death. */
  async call(method: string, params: unknown, { signal, onProgress }: WorkerCall = {}): Promise<unknown> {
    if (!this.#process) throw this.#failure ?? this.#gone(method)
    const { rpc } = this.#process
    let call = 0
    const onId = (id: number): void => {
      call = id
      if (onProgress) this.#progress.set(id, onProgress)
    }
    try {
      return await rpc.call(method, params, { signal, onId })
    } finally {
      this.#progress.delete(call)
    }
  }

  kill(): void {
    this.#process?.kill('killed')
  }

  /** Opens a stream on it. Rejects with what opening throws; not where the worker dies, which the stream outlives or is told of. */
  async open(stream: RemoteStream): Promise<void> {
    stream.link = this
    this.#streams.set(stream.setup.id, stream)
    stream.onEnd(() => this.#close(stream))
    await this.#open(stream, stream.setup.kind)
  }

  credit(stream: RemoteStream, items: number): void {
    if (this.#state === 'ready') this.#process?.rpc.notify('stream.credit', { stream: stream.setup.id, items })
  }

  async cancel(stream: RemoteStream): Promise<void> {
    const process = this.#process
    if (this.#state !== 'ready' || !process) return
    // Native work that does not end has to be ended with its process.
    const late = setTimeout(() => process.kill('killed'), this.#shared.cleanupMs).unref()
    await process.rpc.call('stream.cancel', { stream: stream.setup.id }).catch(() => {})
    clearTimeout(late)
  }

  async accepted(stream: RemoteStream): Promise<void> {
    for (;;) {
      try {
        await this.call('stream.accepted', { stream: stream.setup.id })
        return
      } catch (error) {
        // Its worker died: it is opened again, or it ends.
        if (this.#state !== 'restarting' || stream.ended) throw error
        await this.ready()
      }
    }
  }

  /** Takes the other half of a shutdown: `dispose` has been called in it, or it does not matter. */
  async stop(error: EngineError): Promise<void> {
    const restarting = this.#state === 'restarting' || this.#state === 'starting'
    this.#state = 'stopped'
    this.#stopped.abort(error)
    if (restarting) this.#process?.kill('killed')
    await this.#restarting?.catch(() => {})
    for (const stream of [...this.#streams.values()]) stream.fail(error)
    await this.#process?.end()
    this.#process = undefined
  }

  /** At the end of this process. */
  destroy(): void {
    this.#process?.destroy()
  }

  async #launch(): Promise<InitializeResult> {
    const { settings, parameters, telemetry, listen } = this.#shared
    const process = await WorkerProcess.start(settings, (stream, bytes) => {
      const { from, items } = decodeTokens(bytes)
      this.#streams.get(stream)?.receive(from, items)
    })
    this.#process = process
    const { pid, rpc } = process
    telemetry.event('worker_started', `worker ${this.index} is process ${pid}`, { worker: this.index, pid })
    this.#receive(rpc)
    listen(rpc)
    void process.death.then((death) => this.#died(process, death))
    const began = performance.now()
    let timedOut = false
    const timer = setTimeout(() => {
      timedOut = true
      process.kill('killed')
    }, settings.startTimeoutMs).unref()
    try {
      const keep = [...this.#streams.values()].map(({ setup }) => setup.requestId)
      const result = (await rpc.call('initialize', parameters(this.index, keep))) as InitializeResult
      process.watch(settings.heartbeatMs, settings.heartbeatTimeoutMs)
      if (this.#state === 'starting') this.mirror = result.mirror
      else this.#next = result.mirror
      return result
    } catch (error) {
      if (this.#process === process) this.#process = undefined
      await process.end()
      if (!timedOut) throw error
      const [timeout, duration] = [settings.startTimeoutMs, performance.now() - began]
      const text = `worker ${this.index} (process ${pid}) was not ready after ${timeout} ms`
      throw createError('WORKER_START_TIMEOUT', text, { timeout, duration, pid }, { cause: error })
    } finally {
      clearTimeout(timer)
    }
  }

  #receive(rpc: RpcPeer): void {
    rpc.handle('heartbeat', ({ counters }: Heartbeat) => {
      this.#counters = counters
    })
    rpc.handle('mirror', (mirror: Mirror) => {
      // Of one that is not ready yet, half of the models are missing.
      if (this.#state === 'ready' || this.#state === 'starting') this.mirror = mirror
      else this.#next = mirror
      this.#shared.changed('')
    })
    rpc.handle('transition', ({ next, reason }: { next: EngineState; reason: string }) => {
      if (this.mirror && this.#state !== 'restarting') this.mirror = { ...this.mirror, state: next }
      this.#shared.changed(reason)
    })
    rpc.handle('progress', ({ call, progress }: { call: number; progress: LoadProgress }) =>
      this.#progress.get(call)?.(progress)
    )
    rpc.handle('stream.item', ({ stream, from, item }: ItemParams) => this.#streams.get(stream)?.receive(from, [item]))
    rpc.handle('stream.end', ({ stream, item, error }: EndParams) => {
      const own = this.#streams.get(stream)
      if (item) own?.finish(item)
      else own?.fail(error)
    })
  }

  #serve(): void {
    this.#state = 'ready'
    this.#readyAt = performance.now()
    this.breaker = this.#newBreaker()
    this.mirror = this.#next ?? this.mirror
    this.#next = undefined
    const pid = this.#process!.pid
    const fields = { worker: this.index, pid, restarts: this.#restarts }
    this.#shared.telemetry.event('worker_ready', `worker ${this.index} is ready`, fields)
    this.#shared.changed('worker ready')
  }

  async #died(process: WorkerProcess, death: Death): Promise<void> {
    const served = this.#state === 'ready'
    const stopped = this.#state === 'stopped'
    const { settings, telemetry } = this.#shared
    if (served) this.#state = 'restarting'
    if (stopped) {
      process.rpc.close(createError('ENGINE_DISPOSED', 'the engine has been disposed', { method: 'dispose' }))
      return
    }
    // Only now: what sets the state decides who is told what.
    this.#shared.changed('a worker died')
    let restarted: (() => void) | undefined
    if (served) {
      this.#restarting = new Promise((resolve) => {
        restarted = resolve
      })
    }
    const crash = await this.#record(death)
    this.#lastCrash = crash
    const error = deathError(this.index, death, crash, served)
    const { crashRecord, exitCode, signal, reason } = crash
    const fields = { worker: this.index, pid: death.pid, exitCode, signal, reason, crashRecord, code: error.code }
    telemetry.event('worker_died', error.message, fields)
    telemetry.error(error, {})
    process.rpc.close(error)
    if (this.#process === process) this.#process = undefined
    await process.end()
    if (!served) return
    if (settings.onCrash === 'fail') {
      for (const stream of [...this.#streams.values()]) stream.fail(error)
    }
    if (performance.now() - this.#readyAt >= settings.stableMs) this.#attempts = 0
    await this.#restart(error)
    restarted?.()
    this.#shared.changed('a worker was started again')
  }

  async #restart(cause: EngineError): Promise<void> {
    const { settings, telemetry, reconcile, resumed } = this.#shared
    const { signal } = this.#stopped
    const backoff = {
      initialDelayMs: settings.restartDelayBaseMs,
      maxDelayMs: settings.restartDelayMaxMs,
      backoffMultiplier: 2,
      jitter
    }
    let last: unknown = cause
    while (this.#attempts < settings.maxRestarts) {
      const attempt = ++this.#attempts
      const delayMs = retryDelay(backoff, attempt, systemRandom)
      const fields = { worker: this.index, attempt, maxAttempts: settings.maxRestarts, delayMs }
      telemetry.event('worker_restarting', `worker ${this.index} is started again in ${delayMs} ms`, fields)
      try {
        await systemClock.sleep(delayMs, signal, { keepsAlive: false })
        this.#restarts++
        telemetry.metrics.workerRestarts.add(1, { worker: String(this.index) })
        await this.#launch()
        await reconcile(this)
        if (!this.#process) throw this.#gone('restart')
        this.#serve()
        await this.#resume()
        resumed(this)
        return
      } catch (error) {
        if (signal.aborted) return
        last = error
        telemetry.error(error, { method: 'restart' })
      }
    }
    this.#failure = exhaustedError(this.index, this.#attempts, this.#lastCrash, last)
    this.#state = 'failed'
    telemetry.error(this.#failure, { method: 'restart' })
    for (const stream of [...this.#streams.values()]) stream.fail(this.#failure)
  }

  async #record(death: Death): Promise<WorkerCrash> {
    const { crashFolder, telemetry, audit } = this.#shared
    const { pid, exitCode, signal, reason, outOfMemory } = death
    const time = new Date().toISOString()
    let crashRecord: string | null = null
    try {
      crashRecord = await writeCrashRecord(crashFolder, {
        time,
        worker: this.index,
        death,
        requests: [...this.#streams.values()].map(({ setup }) => setup.requestId),
        counters: this.#counters,
        version: packageVersion(),
        audit: audit(this.index)
      })
    } catch (error) {
      telemetry.error(error, { method: 'crash record' })
    }
    return { time, pid, exitCode, signal, reason, outOfMemory, crashRecord }
  }

  /** The streams that its process had go on where they were. */
  async #resume(): Promise<void> {
    const streams = [...this.#streams.values()]
    if (streams.length === 0) return
    const { telemetry } = this.#shared
    await Promise.all(streams.map((stream) => this.#reopen(stream)))
    const requests = streams.map(({ setup }) => setup.requestId)
    const text = `${streams.length} streams of worker ${this.index} go on`
    telemetry.event('streams_resumed', text, { worker: this.index, requests })
  }

  async #reopen(stream: RemoteStream): Promise<void> {
    try {
      await this.#open(stream, 'resume').catch(async (error: unknown) => {
        // It died before the request was in the journal.
        const fresh = isEngineError(error) && error.code === 'REQUEST_NOT_FOUND' && stream.untouched
        if (!fresh || stream.setup.kind !== 'create') throw error
        await this.#open(stream, 'create')
      })
    } catch (error) {
      stream.fail(error)
    }
  }

  async #open(stream: RemoteStream, kind: 'create' | 'resume'): Promise<void> {
    const process = this.#process
    if (!process) return
    try {
      const { promptTokens } = (await process.rpc.call('stream.open', stream.openParams(kind))) as {
        promptTokens: number
      }
      stream.opened(promptTokens)
    } catch (error) {
      // Where its process died, the streams have been told, or go on with the next one.
      if (this.#process === process && this.#state === 'ready') throw error
    }
  }

  #close(stream: RemoteStream): void {
    const { id } = stream.setup
    this.#streams.delete(id)
    if (this.#state === 'ready') this.#process?.rpc.notify('stream.close', { stream: id })
    this.#shared.changed('')
  }

  #newBreaker(): CircuitBreaker {
    return new CircuitBreaker({ name: `worker ${this.index}`, ...profiles.rpc.breaker })
  }

  #gone(method: string): EngineError {
    return createError('WORKER_CRASHED', `${method}: worker ${this.index} is not there`, {
      worker: this.index,
      pid: null,
      exitCode: this.#lastCrash?.exitCode ?? null,
      signal: this.#lastCrash?.signal ?? null,
      reason: this.#lastCrash?.reason ?? null,
      crashRecord: this.#lastCrash?.crashRecord ?? null
    })
  }
}

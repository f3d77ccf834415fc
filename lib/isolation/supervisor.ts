/** One worker over the lives of its processes: it is started again after a death, gets its models back, and its streams go on. */
import { performance } from 'node:perf_hooks'
import type { EngineError } from '../errors/index.js'
import { createError } from '../errors/index.js'
import type { EngineState } from '../lifecycle.js'
import type { Counters, LoadProgress } from '../native.js'
import { packageVersion } from '../native.js'
import { retryDelay, systemRandom } from '../resilience/backoff.js'
import type { BreakerSnapshot } from '../resilience/breaker.js'
import { CircuitBreaker } from '../resilience/breaker.js'
import { orAborted, systemClock } from '../resilience/clock.js'
import { profiles } from '../resilience/profiles.js'
import type { EngineEvent } from '../telemetry/event-catalog.js'
import type { Telemetry } from '../telemetry/telemetry.js'
import { writeCrashRecord } from './crash-record.js'
import type { Heartbeat, InitializeParams, InitializeResult, Mirror } from './protocol.js'
import type { RemoteStream } from './remote-stream.js'
import type { RpcPeer } from './rpc.js'
import type { IsolationSettings } from './settings.js'
import type { StreamOwner } from './supervised-streams.js'
import { SupervisedStreams } from './supervised-streams.js'
import { deathError, exhaustedError, isOfProcess } from './worker-errors.js'
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
  parameters(index: number): InitializeParams
  /** File of the audit log of a worker. */
  audit(index: number): string | undefined
  /** Attaches what hooks of the engine want to hear, and `heard` for its events. */
  listen(rpc: RpcPeer, heard: (event: EngineEvent) => void): void
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

export class Worker implements StreamOwner {
  readonly index: number
  readonly streams: SupervisedStreams = new SupervisedStreams(this)
  /** Of the process that is there now: its failures say nothing about the next one. */
  breaker: CircuitBreaker
  /** What its engine said last; of one that is being started again, what the one before it said. */
  mirror: Mirror | undefined
  #next: Mirror | undefined
  /** It refused a request for lack of something, and is not asked again before (of the monotonic clock). */
  refusingUntil = 0
  /** Its engine has ended what ran, on the way to its own end. */
  drained = false
  readonly #shared: Supervision
  /** Of calls under way, by their ids. */
  readonly #progress = new Map<number, (progress: LoadProgress) => void>()
  readonly #stopped = new AbortController()
  /** Its engine has been told to end. */
  #disposing = false
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

  get serving(): WorkerProcess | undefined {
    return this.#state === 'ready' ? this.#process : undefined
  }

  get cleanupMs(): number {
    return this.#shared.cleanupMs
  }

  /** Of a model's archive, as the process before knew it. */
  circuitOf(model: string): BreakerSnapshot | undefined {
    return this.mirror?.models.find(({ info }) => info.id === model)?.circuit
  }

  /** Why it is given up. */
  get failure(): EngineError | undefined {
    return this.#failure
  }

  info(): WorkerInfo {
    const pid = this.#process?.pid ?? null
    const [index, state, restarts, lastCrash] = [this.index, this.#state, this.#restarts, this.#lastCrash]
    return { index, pid, state, restarts, streams: this.streams.size, lastCrash }
  }

  /** The first start. WORKER_BINARY_NOT_FOUND, WORKER_SPAWN_FAILED, WORKER_INIT_CRASHED, WORKER_START_TIMEOUT, and what createEngine throws. */
  async start(): Promise<InitializeResult> {
    const result = await this.#launch()
    this.#serve()
    return result
  }

  /** Resolves when a process serves. Rejects with the reason where there will be none, and with that of the signal. */
  async ready(signal?: AbortSignal): Promise<void> {
    while (this.#state === 'restarting') {
      signal?.throwIfAborted()
      await orAborted(this.#restarting!, signal)
    }
    this.#stopped.signal.throwIfAborted()
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

  /** Disposes of its engine. Rejects as `call`. */
  async dispose(drainMs: number): Promise<void> {
    this.#disposing = true
    await this.call('engine.dispose', [{ drainMs }])
  }

  kill(): void {
    this.#process?.kill('killed')
  }

  changed(): void {
    this.#shared.changed('')
  }

  /** Takes the other half of a shutdown: `dispose` has been called in it, or it does not matter. */
  async stop(error: EngineError): Promise<void> {
    const restarting = this.#state === 'restarting' || this.#state === 'starting'
    this.#state = 'stopped'
    this.#stopped.abort(error)
    if (restarting) this.#process?.kill('killed')
    await this.#restarting?.catch(() => {})
    this.streams.fail(error)
    await this.#process?.end()
    this.#process = undefined
  }

  /** At the end of this process. */
  destroy(): void {
    this.#process?.destroy()
  }

  async #launch(): Promise<InitializeResult> {
    const { settings, parameters, telemetry, listen } = this.#shared
    const process = await WorkerProcess.start(settings, (stream, bytes) => this.streams.receive(stream, bytes))
    this.#process = process
    const { pid, rpc } = process
    telemetry.event('worker_started', `worker ${this.index} is process ${pid}`, { worker: this.index, pid })
    this.#receive(process)
    this.streams.listen(process)
    listen(rpc, ({ event, message, fields }) => {
      if (event === 'shutdown_step' && fields.step === 'drain') this.drained = true
      if (event === 'step_stuck' && settings.onStuckStep === 'restart') {
        process.condemn(createError('RUNTIME_STEP_STUCK', message, fields), 'stuck')
      }
    })
    void process.death.then((death) => this.#died(process, death))
    const began = performance.now()
    let timedOut = false
    const timer = setTimeout(() => {
      timedOut = true
      process.kill('killed')
    }, settings.startTimeoutMs).unref()
    try {
      const result = (await rpc.call('initialize', parameters(this.index))) as InitializeResult
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

  #receive(process: WorkerProcess): void {
    const { rpc } = process
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
      if (next === 'closed' && !this.#disposing) process.kill('closed')
      this.#shared.changed(reason)
    })
    rpc.handle('progress', ({ call, progress }: { call: number; progress: LoadProgress }) =>
      this.#progress.get(call)?.(progress)
    )
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
    if (this.#state === 'stopped') {
      process.rpc.close(createError('ENGINE_DISPOSED', 'the engine has been disposed', { method: 'dispose' }))
      return
    }
    // One that was told to end, having said why it cannot start, is no crash.
    if (death.orderly) {
      process.rpc.close(this.#gone('initialize'))
      return
    }
    let restarted: (() => void) | undefined
    if (served) {
      this.#state = 'restarting'
      this.#restarting = new Promise((resolve) => {
        restarted = resolve
      })
    }
    try {
      // Only now: what sets the state decides who is told what.
      this.#shared.changed('a worker died')
      await this.#goOn(process, death, served)
    } catch (error) {
      // Whatever it is, nobody may wait for a process that does not come.
      process.rpc.close(error)
      if (served && !this.#stopped.signal.aborted) this.#giveUp(error)
    } finally {
      restarted?.()
    }
    if (served) this.#shared.changed('a worker was started again')
  }

  /** Tells of a death; where it `served`, another process is started, or none any more. */
  async #goOn(process: WorkerProcess, death: Death, served: boolean): Promise<void> {
    const { settings, telemetry } = this.#shared
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
    const { stableMs, onCrash, maxRestarts } = settings
    // Standing still is no service: a request that no process can compute would be taken up for ever.
    const stoodMs = death.reason === 'stuck' ? Number(death.fault?.details.elapsedMs) : 0
    if (performance.now() - this.#readyAt - stoodMs >= stableMs) this.#attempts = 0
    // The last start is without them: one of them may be what ends every process that has it.
    const last = this.#attempts > 0 && this.#attempts === maxRestarts - 1
    if (onCrash === 'fail' || last) this.streams.fail(error)
    await this.#restart(error)
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
        signal.throwIfAborted()
        if (!this.#process) throw this.#gone('restart')
        // Before it serves: whoever hears of that may begin streams of his own at once.
        const streams = this.streams.keep(this.#process)
        this.#serve()
        await this.#resume(streams)
        resumed(this)
        return
      } catch (error) {
        if (signal.aborted) return
        last = error
        telemetry.error(error, { method: 'restart' })
      }
    }
    this.#giveUp(last)
  }

  #giveUp(cause: unknown): void {
    this.#failure = exhaustedError(this.index, this.#attempts, this.#lastCrash, cause)
    this.#state = 'failed'
    this.#shared.telemetry.error(this.#failure, { method: 'restart' })
    this.streams.fail(this.#failure)
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
        requests: this.streams.requests(),
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
  async #resume(streams: readonly RemoteStream[]): Promise<void> {
    const requests = await this.streams.reopen(streams)
    if (requests.length === 0) return
    const text = `${requests.length} streams of worker ${this.index} go on`
    this.#shared.telemetry.event('streams_resumed', text, { worker: this.index, requests })
  }

  #newBreaker(): CircuitBreaker {
    return new CircuitBreaker({ name: `worker ${this.index}`, ...profiles.rpc.breaker, countsAsFailure: isOfProcess })
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

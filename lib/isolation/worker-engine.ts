/** The engine of a worker process, and what the other side can ask of it. */
import { boot } from '../engine/boot.js'
import { LocalEngine } from '../engine/local-engine.js'
import type { EngineOptions, LoadModelOptions } from '../engine/options.js'
import type { EngineParts } from '../engine/parts.js'
import type { CallOptions } from '../generation/options.js'
import { placementData } from './placement-data.js'
import type {
  CircuitParams,
  Heartbeat,
  InitializeParams,
  InitializeResult,
  KeepParams,
  Mirror,
  OpenParams,
  WorkerHooks
} from './protocol.js'
import type { RpcCallContext, RpcPeer } from './rpc.js'
import { WorkerStreams } from './worker-streams.js'

/** Least milliseconds between two mirrors, and how many times longer than a mirror takes to make it is waited for the next. */
const [mirrorMs, mirrorShare] = [250, 20] as const

/** How each method of the engine is called: with what came, the caller's abort, and the id of the call. */
type Call = (engine: LocalEngine, args: never, context: RpcCallContext, rpc: RpcPeer) => unknown

const within = ({ timeoutMs }: CallOptions, { signal }: RpcCallContext): CallOptions => ({
  signal,
  ...(timeoutMs !== undefined && { timeoutMs })
})

const telling = ({ id }: RpcCallContext, rpc: RpcPeer): LoadModelOptions => ({
  onProgress: (progress) => rpc.notify('progress', { call: id, progress })
})

type Args<Name extends keyof LocalEngine> = LocalEngine[Name] extends (...args: infer All) => unknown ? All : never

const calls = {
  loadModel: (engine, [request, options = {}]: Args<'loadModel'>, context, rpc) =>
    engine.loadModel(request, { ...within(options, context), ...telling(context, rpc) }),
  swapModel: (engine, [model, request, options = {}]: Args<'swapModel'>, context, rpc) =>
    engine.swapModel(model, request, { ...options, ...within(options, context), ...telling(context, rpc) }),
  unloadModel: (engine, args: Args<'unloadModel'>) => engine.unloadModel(...args),
  activateTierSet: (engine, args: Args<'activateTierSet'>) => engine.activateTierSet(...args),
  pinExperts: (engine, args: Args<'pinExperts'>) => engine.pinExperts(...args),
  expand: (engine, [model, request, options = {}]: Args<'expand'>, context) =>
    engine.expand(model, request, within(options, context)),
  swapExperts: (engine, args: Args<'swapExperts'>) => engine.swapExperts(...args),
  persistExperts: (engine, args: Args<'persistExperts'>) => engine.persistExperts(...args),
  tokenize: (engine, args: Args<'tokenize'>) => engine.tokenize(...args),
  detokenize: (engine, args: Args<'detokenize'>) => engine.detokenize(...args),
  tokenBytes: (engine, args: Args<'tokenBytes'>) => engine.tokenBytes(...args),
  acknowledgeRequest: (engine, args: Args<'acknowledgeRequest'>) => engine.acknowledgeRequest(...args),
  forward: (engine, [request, options = {}]: Args<'forward'>, context) =>
    engine.forward(request, within(options, context)),
  perplexity: (engine, [request, options = {}]: Args<'perplexity'>, context) =>
    engine.perplexity(request, within(options, context)),
  freeze: (engine, args: Args<'freeze'>) => engine.freeze(...args),
  thaw: (engine) => engine.thaw(),
  recover: (engine) => engine.recover(),
  dispose: (engine, args: Args<'dispose'>) => engine.dispose(...args)
} satisfies Record<string, Call>

export type WorkerMethod = keyof typeof calls

export class WorkerEngine {
  readonly #rpc: RpcPeer
  readonly #parts: EngineParts
  readonly #engine: LocalEngine
  readonly #streams: WorkerStreams
  #mirrored = 0
  #mirrorTook = 0

  private constructor(rpc: RpcPeer, parts: EngineParts, { ephemeral, heartbeatMs }: InitializeParams) {
    this.#rpc = rpc
    this.#parts = parts
    this.#engine = new LocalEngine(parts)
    const release = async (requestId: string): Promise<void> => {
      if (ephemeral) await this.#forget(requestId)
    }
    this.#streams = new WorkerStreams(this.#engine, rpc, { release, onChange: () => this.#mirror() })
    setInterval(() => this.#beat(), heartbeatMs)
    setInterval(() => this.#mirrorSoon(), mirrorMs).unref()
  }

  /** Starts the engine and answers its methods from then on. Throws what createEngine does. */
  static async initialize(rpc: RpcPeer, params: InitializeParams): Promise<InitializeResult> {
    const { options, journal, hooks } = params
    const parts = await boot({ ...options, ...(journal && { journal }), ...told(rpc, hooks) }, {})
    const worker = new WorkerEngine(rpc, parts, params)
    worker.#serve()
    return { recovered: worker.#engine.recovered, mirror: worker.#look() }
  }

  #serve(): void {
    const [rpc, engine, streams] = [this.#rpc, this.#engine, this.#streams]
    for (const [name, call] of Object.entries(calls) as [WorkerMethod, Call][]) {
      rpc.handle<never>(`engine.${name}`, async (args, context) => {
        try {
          return await call(engine, args, context, rpc)
        } finally {
          this.#mirror()
        }
      })
    }
    rpc.handle('engine.restore', async () => {
      await engine.restore()
      this.#mirror()
      return engine.recovered
    })
    rpc.handle('archive.restoreCircuit', ({ model, circuit }: CircuitParams) =>
      this.#parts.models.get(model).archive?.circuit.restore(circuit)
    )
    rpc.handle('stream.open', async (params: OpenParams) => {
      const opened = await streams.open(params)
      // It may have loaded its model.
      if (params.kind === 'resume') this.#mirror()
      return opened
    })
    rpc.handle('stream.keep', ({ requests }: KeepParams) => streams.keep(requests))
    rpc.handle('stream.accepted', ({ stream }: { stream: number }) => streams.accepted(stream))
    rpc.handle('stream.credit', ({ stream, items }: { stream: number; items: number }) => streams.credit(stream, items))
    // Called by who waits for its end, told by who does not.
    rpc.handle('stream.close', ({ stream }: { stream: number }) => streams.close(stream))
  }

  /** A request that nobody asks for any more leaves the journal. */
  async #forget(requestId: string): Promise<void> {
    if (!this.#parts.ledger.journal?.get(requestId)) return
    // A disk that refuses it is told of where somebody waits.
    await this.#engine.acknowledgeRequest({ requestId }).catch(() => {})
  }

  #beat(): void {
    // Of one who stands still (a debugger) nothing may pile up here.
    if (this.#rpc.backlogged) return
    this.#rpc.notify('heartbeat', { counters: this.#engine.counters() } satisfies Heartbeat)
  }

  /** Tells what the engine says now; of a busy engine not all the time. */
  #mirror(): void {
    const began = performance.now()
    this.#rpc.notify('mirror', this.#look())
    this.#mirrored = performance.now()
    this.#mirrorTook = this.#mirrored - began
  }

  /** While something runs, at the rate that costs little. */
  #mirrorSoon(): void {
    if (this.#streams.size === 0 || this.#rpc.backlogged) return
    if (performance.now() - this.#mirrored >= mirrorShare * this.#mirrorTook) this.#mirror()
  }

  #look(): Mirror {
    const engine = this.#engine
    const { state, routingSeed } = engine
    const open = state !== 'draining' && state !== 'closed'
    const models = open
      ? engine.listModels().map((info) => ({
          info,
          stats: engine.modelStats(info.id),
          placement: placementData(engine.placement(info.id)),
          circuit: this.#parts.models.get(info.id).archive?.circuit.snapshot()
        }))
      : []
    const backend = open ? engine.backend : undefined
    return { state, backend, counters: engine.counters(), routingSeed, metrics: engine.metrics(), models }
  }
}

/** What the other side ends a process for, or not, whether anybody else listens or not. */
const supervised: ReadonlySet<string> = new Set(['step_stuck', 'shutdown_step'])

/** Hooks that hand on what they hear. */
function told(rpc: RpcPeer, { logger, onEvent, onError, onPhase }: WorkerHooks): EngineOptions {
  const log =
    (level: 'debug' | 'info' | 'warn' | 'error') =>
    (fields: object, message?: string): void =>
      rpc.notify('log', { level, fields, message })
  return {
    onTransition: (transition) => rpc.notify('transition', transition),
    ...(logger && { logger: { debug: log('debug'), info: log('info'), warn: log('warn'), error: log('error') } }),
    onEvent: (event) => {
      if (onEvent || supervised.has(event.event)) rpc.notify('event', event)
    },
    ...(onError && { onError: (error, context) => rpc.notify('error', { error, context }) }),
    ...(onPhase && { onPhase: (event) => rpc.notify('phase', event) })
  }
}

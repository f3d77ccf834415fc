/** Forward calls: the logits of given tokens, apart from the scheduler of generations. */
import type { ExpertArchive } from '../archive/expert-archive.js'
import { createError } from '../errors/index.js'
import type { ExpertVersions } from '../experts/versions.js'
import { StepWatchdog } from '../guards/step-watchdog.js'
import { Interruption } from '../interruption.js'
import type { KvType, NativeAddon, NativeModel, StepItem, StepResult } from '../native.js'
import type { TierSelection } from '../tiers/selection.js'
import type { TierSetName } from '../tiers/tier-sets.js'
import type { Deadlines } from './deadlines.js'
import { requestTime } from './deadlines.js'
import type { CallOptions } from './options.js'
import { checkTokens } from './prompt.js'
import type { RoutingCapture } from './routing.js'
import { checkReplay, SequenceRoutes, sameKind, withReplay } from './routing.js'
import type { StuckOptions } from './scheduler.js'

/** What a forward call is asked for besides the tokens. */
export interface ForwardOptions {
  logits: 'last' | 'all'
  captureRouting: boolean
  /** Default: the active one. */
  tierSet?: TierSetName | undefined
  replayRouting?: RoutingCapture | undefined
}

export interface ForwardResult {
  /** [vocab] of the last position, or [tokens, vocab]. */
  logits: Float32Array
  /** With `captureRouting` only: of all tokens. */
  routing?: RoutingCapture
}

/** The model that forward calls run on. */
export interface ForwardModel {
  id: string
  addon: Pick<NativeAddon, 'createCancel'>
  native: NativeModel
  vocab: number
  /** Positions that one sequence may hold. */
  contextLength: number
  kvType: KvType
  maxBatchTokens: number
  selection: TierSelection
  archive?: ExpertArchive | undefined
  swaps: { versions: Pick<ExpertVersions, 'hold'> }
  deadlines: Deadlines
  stuck?: StuckOptions | undefined
}

export class Forwards {
  readonly #model: ForwardModel
  readonly #running = new Map<Interruption, Promise<unknown>>()

  constructor(model: ForwardModel) {
    this.#model = model
  }

  /** LoadedModel.forward, of a model that is not closed. */
  async forward(tokens: Int32Array, request: ForwardOptions, call: CallOptions): Promise<ForwardResult> {
    const { addon, contextLength, id, vocab, native, selection, deadlines, archive, swaps, stuck } = this.#model
    const { logits } = request
    checkTokens('forward', 'tokens', tokens, vocab)
    if (tokens.length > contextLength) {
      const text = `${tokens.length} tokens, the context of ${id} holds ${contextLength}`
      throw createError('CONTEXT_LENGTH_EXCEEDED', text, { model: id, required: tokens.length, limit: contextLength })
    }
    const { enabled } = request.tierSet === undefined ? selection.active : selection.select(request).tierSet
    const replay = request.replayRouting && checkReplay('forward', request.replayRouting, native.routing)
    const out: ForwardResult = { logits: allocateLogits(logits === 'all' ? tokens.length : 1, vocab) }
    const cancel = addon.createCancel()
    const timeoutMs = requestTime(call, deadlines) ?? deadlines.inferenceMs
    const limited = { ...call, ...(timeoutMs !== undefined && { timeoutMs }) }
    const interruption = new Interruption(cancel, 'forward', `forward on ${id}`, 'INFERENCE_TIMEOUT', limited)
    const hold = swaps.versions.hold()
    const { limitMs, progress } = stuck ?? {}
    const onStuck = (elapsedMs: number): void => interruption.interrupt(stuck?.tell(elapsedMs, [], done))
    const watchdog = new StepWatchdog({ limitMs, progress, onStuck })
    const done = this.#run(tokens, request, out, replay, interruption, (item) => {
      const step = () =>
        watchdog.run(() => native.step([{ ...item, epoch: hold.epoch, ...(enabled && { enabled }) }], cancel))
      return archive ? archive.run(step, item.tokens.length, interruption.signal) : step()
    })
    this.#running.set(interruption, done)
    try {
      await interruption.settled(done, deadlines)
      return out
    } catch (error) {
      throw interruption.explain(error)
    } finally {
      watchdog.end()
      hold.release()
      this.#running.delete(interruption)
      interruption.end()
    }
  }

  /** Interrupts all calls with the error at once; resolves when none runs. */
  async end(error: unknown): Promise<void> {
    const running = [...this.#running]
    for (const [interruption] of running) interruption.interrupt(error)
    await Promise.allSettled(running.map(([, done]) => done))
  }

  async #run(
    tokens: Int32Array,
    { logits, captureRouting }: ForwardOptions,
    out: ForwardResult,
    replay: RoutingCapture | undefined,
    interruption: Interruption,
    step: (item: StepItem) => Promise<StepResult | undefined>
  ): Promise<void> {
    const { native, kvType, maxBatchTokens, vocab } = this.#model
    let most = maxBatchTokens
    interruption.check()
    const sequence = native.createSequence({ kvType, maxTokens: tokens.length, captureRouting })
    try {
      for (let at = 0; at < tokens.length; at = sequence.length) {
        interruption.check()
        const chunk = tokens.subarray(at, at + sameKind(at, most, replay))
        const last = at + chunk.length === tokens.length
        const item: StepItem = { sequence, tokens: chunk, logits: logits === 'all' ? 'all' : last ? 'last' : 'none' }
        if (logits === 'all') item.logitsOut = out.logits.subarray(at * vocab, (at + chunk.length) * vocab)
        else if (last) item.logitsOut = out.logits
        withReplay(item, at, replay)
        const result = await step(item)
        // More experts than the archive can bring at once.
        if (!result) most = Math.ceil(chunk.length / 2)
        else if (result.items[0]?.error) throw result.items[0].error
      }
      if (captureRouting) out.routing = new SequenceRoutes(sequence, native.routing).read(0, tokens.length)
    } finally {
      sequence.dispose()
    }
  }
}

/** Caller-owned memory for the logits of so many positions. */
function allocateLogits(positions: number, vocab: number): Float32Array {
  try {
    return new Float32Array(positions * vocab)
  } catch (cause) {
    const required = positions * vocab * Float32Array.BYTES_PER_ELEMENT
    throw createError(
      'RESOURCE_MEMORY_EXHAUSTED',
      `the logits of all positions take ${required} bytes, more than one array can have here`,
      {
        resourceInfo: { required, available: 0, current: null, limit: null, unit: 'bytes' },
        alternatives: [{ change: 'logits', value: 'last', required: Float32Array.BYTES_PER_ELEMENT * vocab }]
      },
      { cause }
    )
  }
}

/**
 * The journal of an engine: what it has promised to whom, and how far it is, so that the next process can go on. When bytes are
 * written is the writer's business, what records add up to is the state's.
 */
import type { EngineError } from '../errors/index.js'
import { createError, errnoOf } from '../errors/index.js'
import { makeFolder } from '../folders.js'
import { closeFile, createSegment, freeBytes, openFile, segmentPath, unwritable } from './files.js'
import { encodeRecord } from './frame.js'
import { lockJournal } from './lock.js'
import type { JournalReading } from './reader.js'
import { readJournal, setAside } from './reader.js'
import type {
  ExpertsRecord,
  FinishedRecord,
  JournalRecord,
  ModelIdentity,
  ModelRecord,
  StartRecord,
  TokensRecord
} from './records.js'
import { journalFormat } from './records.js'
import type { Recovered } from './recovered.js'
import { describeRecovered, loadOptions } from './recovered.js'
import type { JournaledRequest, JournalState } from './state.js'
import type { WriterPosition } from './writer.js'
import { JournalWriter } from './writer.js'

/** Tokens that wait for `syncMs` at most; with so many the group is written at once. */
const groupTokens = 4096

export interface JournalSettings {
  /** The journal's folder; made where there is none. */
  path: string
  /** Milliseconds after which produced tokens are on disk, at the latest. */
  syncMs: number
  segmentBytes: number
  /** Milliseconds for which a request that has ended can be read again. */
  retentionMs: number
  onDamage: 'refuse' | 'salvage'
}

/** A token as a journal keeps it. */
export interface ProducedToken {
  token: number
  logprob?: number
  topLogprobs?: { token: number; logprob: number }[]
}

/** A load, and what became of its experts. */
export interface EarlierLoad {
  model: ModelRecord
  experts: readonly ExpertsRecord[]
  /** What its checkpoint may be since changed experts were written into it; a crash may have come before that. */
  persisted: readonly ModelIdentity[]
}

function earlierLoad(state: JournalState, load: number): EarlierLoad {
  const { identity, before } = state.persisted.get(load) ?? {}
  return {
    model: state.models.get(load)!,
    experts: state.experts.get(load) ?? [],
    persisted: [identity, before].filter((own) => own !== undefined)
  }
}

export class Journal {
  /** What was in it when it was opened. */
  readonly recovered: Recovered
  readonly #settings: JournalSettings
  readonly #lock: number
  readonly #state: JournalState
  readonly #writer: JournalWriter
  /** What was loaded when the last engine ended, or before it where that did not come to load it again. */
  readonly #inherited: Map<number, EarlierLoad>
  /** Tokens that no record holds yet. */
  readonly #pending = new Map<string, TokensRecord>()
  #pendingTokens = 0
  #expired = 0
  #begun = false
  #closing: Promise<void> | undefined

  private constructor(settings: JournalSettings, lock: number, reading: JournalReading, position: WriterPosition) {
    const { state, cut, damage } = reading
    this.#settings = settings
    this.#lock = lock
    this.#state = state
    this.recovered = describeRecovered(state, cut, damage)
    const inherited = [...state.inherited, ...state.loaded]
    this.#inherited = new Map(inherited.map((load) => [load, earlierLoad(state, load)]))
    this.#writer = new JournalWriter(
      {
        folder: settings.path,
        syncMs: settings.syncMs,
        segmentBytes: settings.segmentBytes,
        collect: () => this.#collect(),
        snapshot: () => state.snapshot(),
        liveBytes: () => state.liveBytes
      },
      position
    )
  }

  /**
   * Opens a folder's journal, for `started` to go on with, and cuts off what a crash left unfinished. `tryLock` locks a file descriptor, or says that another has it.
   * JOURNAL_LOCKED {pid, at}, JOURNAL_CORRUPTED {damage}, JOURNAL_VERSION_UNSUPPORTED, JOURNAL_WRITE_FAILED {resourceInfo},
   * FILE_READ_FAILED, FILE_WRITE_FAILED {path, errno}.
   */
  static async open(settings: JournalSettings, tryLock: (fd: number) => boolean): Promise<Journal> {
    const { path } = settings
    await makeFolder(path)
    const lock = await lockJournal(path, tryLock)
    try {
      const reading = await readJournal(path, settings.onDamage === 'salvage')
      reading.state.expire(Date.now() - settings.retentionMs)
      const position = await continueJournal(path, reading)
      return new Journal(settings, lock, reading, position)
    } catch (error) {
      await closeFile(lock)
      throw error
    }
  }

  /** Its folder. */
  get path(): string {
    return this.#settings.path
  }

  /** Segments on disk, and their bytes. */
  get size(): { segments: number; bytes: number } {
    return this.#writer.size
  }

  /** An engine begins, with nothing loaded. */
  started(start: Omit<StartRecord, 'type' | 'at'>): void {
    this.#begun = true
    this.#append({ type: 'start', at: Date.now(), ...start })
  }

  /** A request that is here: running, or ended and neither acknowledged nor expired. */
  get(id: string): JournaledRequest | undefined {
    this.#collect()
    const request = this.#state.requests.get(id)
    const ended = request?.finished ?? request?.failed
    if (!request || !ended || request.at >= Date.now() - this.#settings.retentionMs) return request
    this.#state.forget(id)
    return undefined
  }

  /** The load that a request was accepted for. */
  load(number: number): ModelRecord | undefined {
    return this.#state.models.get(number)
  }

  /** A model was loaded; returns the number of the load. */
  modelLoaded(model: Omit<ModelRecord, 'type' | 'load' | 'at'>): number {
    const load = this.#state.lastLoad + 1
    this.#append({ type: 'model', load, ...model, at: Date.now() })
    return load
  }

  modelUnloaded(load: number): void {
    const id = this.#state.models.get(load)?.id
    for (const [earlier, { model }] of this.#inherited) if (model.id === id) this.#inherited.delete(earlier)
    this.#append({ type: 'unload', load, at: Date.now() })
  }

  tierSetActivated(load: number, tiers: string[], latencyBudgetMs?: number): void {
    const budget = latencyBudgetMs !== undefined && { latencyBudgetMs }
    this.#append({ type: 'tierSet', load, tiers, ...budget, at: Date.now() })
  }

  /**
   * The tiers of a load's model are in another folder from now on, for its earlier loads too; `done` when that is durable
   * (JOURNAL_WRITE_FAILED), until `undo`.
   */
  tierFolders(load: number, tiers: readonly string[], folder: string): { done: Promise<void>; undo: () => void } {
    const { models, tierFolders } = this.#state
    const own = models.get(load)
    const same = [...models.values()].filter(
      ({ path, identity }) => path === own?.path && identity.sha256 === own.identity.sha256
    )
    const before = same.flatMap(({ load }) =>
      tiers.map((tier) => ({ load, tier, folder: tierFolders.get(load)?.get(tier)?.folder ?? null }))
    )
    const tell = (record: (typeof before)[0]) => this.#append({ type: 'tierFolder', ...record, at: Date.now() })
    for (const record of before) tell({ ...record, folder })
    return {
      done: this.#writer.flush(),
      undo: () => {
        for (const record of before) tell(record)
      }
    }
  }

  /** What loads a model again, with the TierSet that was activated last and the tiers that were added. */
  loadOptions({ load, options }: ModelRecord): Record<string, unknown> {
    return loadOptions(this.#state, load, options)
  }

  /** New versions of a load's experts; resolves when that is durable. JOURNAL_WRITE_FAILED: then they are not here. */
  async expertsChanged(load: number, epoch: number, experts: ExpertsRecord['experts']): Promise<void> {
    const record: JournalRecord = { type: 'experts', load, epoch, experts, at: Date.now() }
    const { bytes, done } = this.#writer.commit(record)
    this.#state.apply(record, bytes)
    try {
      await done
    } catch (error) {
      this.#state.forgetExperts(load, epoch)
      throw error
    }
  }

  /** A load's experts go into its checkpoint, which then has another identity; resolves when that is durable. JOURNAL_WRITE_FAILED. */
  persisting(load: number, before: ModelIdentity, identity: ModelIdentity): Promise<void> {
    this.#append({ type: 'persisted', load, identity, before, at: Date.now() })
    return this.#writer.flush()
  }

  /** Loads of a model whose experts a later load goes on with, latest first: those of requests, and those that the last engine ended with. */
  earlierLoads(id: string): EarlierLoad[] {
    const loads = new Map(this.#inherited)
    for (const { accepted, finished } of this.#state.requests.values()) {
      const { load } = accepted
      if (!finished && !this.#state.loaded.has(load)) loads.set(load, earlierLoad(this.#state, load))
    }
    return [...loads.values()].filter(({ model }) => model.id === id).sort((a, b) => b.model.load - a.model.load)
  }

  /** Files that its records name as versions of experts. */
  expertFiles(): string[] {
    const changes = [...this.#state.experts.values(), ...[...this.#inherited.values()].map(({ experts }) => experts)]
    return changes.flat().flatMap(({ experts }) => experts.map(({ blob }) => blob.path))
  }

  /** Epochs of a model's requests that have not ended. */
  unfinishedEpochs(id: string): number[] {
    const epochs: number[] = []
    for (const { accepted, finished } of this.#state.requests.values()) {
      if (!finished && this.#state.models.get(accepted.load)?.id === id) epochs.push(accepted.epoch)
    }
    return epochs
  }

  /** The changes of a load's experts, oldest first. */
  expertChanges(load: number): readonly ExpertsRecord[] {
    return this.#state.experts.get(load) ?? []
  }

  /**
   * Takes a request on; resolves when that is durable, which is when it may be acknowledged. JOURNAL_WRITE_FAILED, ENGINE_DISPOSED (the
   * journal is closed): then it is not here.
   */
  async accept(id: string, load: number, request: Record<string, unknown>, epoch = 0): Promise<void> {
    this.#expire()
    const record: JournalRecord = { type: 'accepted', id, load, request, epoch, at: Date.now() }
    const { bytes, done } = this.#writer.commit(record)
    this.#state.apply(record, bytes)
    try {
      await done
    } catch (error) {
      this.#pending.delete(id)
      this.#state.forget(id)
      throw error
    }
  }

  /** A request that had failed runs again, so it does not expire. Known to the next engine with its next token. */
  resumed(id: string): void {
    const request = this.#state.requests.get(id)
    if (request) request.failed = undefined
  }

  /** The token at a position of a request's output. One that is known is the same again. */
  produced(id: string, position: number, { token, logprob, topLogprobs }: ProducedToken): void {
    const pending = this.#pendingOf(id)
    if (!pending || position !== pending.from + pending.tokens.length) return
    pending.tokens.push(token)
    if (logprob !== undefined) {
      pending.logprobs ??= []
      pending.logprobs.push(logprob)
    }
    if (topLogprobs) {
      pending.top ??= []
      pending.top.push(topLogprobs)
    }
    if (++this.#pendingTokens >= groupTokens) void this.#writer.flush().catch(() => {})
  }

  /** The consumer has `count` tokens of a request. */
  delivered(id: string, count: number): void {
    const pending = this.#pendingOf(id)
    if (pending) pending.delivered = Math.max(pending.delivered, count)
  }

  finished(id: string, reason: FinishedRecord['reason'], usage: FinishedRecord['usage']): void {
    this.#end({ type: 'finished', id, reason, usage, at: Date.now() })
  }

  failed(id: string, code: string): void {
    this.#end({ type: 'failed', id, code, at: Date.now() })
  }

  /** The client needs a request no more; resolves when that is durable. JOURNAL_WRITE_FAILED: it is written later. */
  async acknowledge(id: string): Promise<void> {
    this.#pending.delete(id)
    this.#append({ type: 'acknowledged', id, at: Date.now() })
    await this.#writer.flush()
  }

  /** Makes everything durable. JOURNAL_WRITE_FAILED. */
  flush(): Promise<void> {
    return this.#writer.flush()
  }

  /** Writes what waits and gives the lock back, once; nothing is written after it. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    // An engine that ends in its own time has not wanted them.
    if (this.#begun) for (const load of this.#state.inherited) this.#append({ type: 'unload', load, at: Date.now() })
    await this.#writer.close().finally(() => closeFile(this.#lock))
  }

  #append(record: JournalRecord): void {
    this.#state.apply(record, this.#writer.append(record))
    this.#writer.wake()
  }

  #end(record: JournalRecord & { id: string }): void {
    if (!this.#state.requests.has(record.id)) return
    // Its tokens come before its end.
    this.#collect()
    this.#append(record)
  }

  #pendingOf(id: string): TokensRecord | undefined {
    const request = this.#state.requests.get(id)
    if (!request) return undefined
    let pending = this.#pending.get(id)
    if (!pending) {
      pending = { type: 'tokens', id, from: request.tokens.length, tokens: [], delivered: request.delivered }
      this.#pending.set(id, pending)
      this.#writer.wake()
    }
    return pending
  }

  #collect(): void {
    for (const record of this.#pending.values()) this.#state.apply(record, this.#writer.append(record))
    this.#pending.clear()
    this.#pendingTokens = 0
  }

  #expire(): void {
    const now = Date.now()
    const { retentionMs } = this.#settings
    if (now - this.#expired < retentionMs / 16) return
    this.#expired = now
    this.#state.expire(now - retentionMs)
  }
}

/** Opens the last segment to go on with it; a new journal gets its first one, a damaged one a whole one in its place. */
async function continueJournal(folder: string, { state, segments, damage }: JournalReading): Promise<WriterPosition> {
  const last = segments.at(-1)
  if (last && damage.length === 0) {
    const path = segmentPath(folder, last.number)
    try {
      return { fd: await openFile(path, 'r+'), ...last, earlier: segments.slice(0, -1) }
    } catch (error) {
      throw unwritable(path, error)
    }
  }
  const number = (last?.number ?? 0) + 1
  const parts = [encodeRecord({ type: 'segment', format: journalFormat, number, compacted: true })]
  for (const record of state.snapshot()) parts.push(encodeRecord(record))
  const bytes = Buffer.concat(parts)
  let fd: number
  try {
    fd = await createSegment(folder, number, bytes)
  } catch (error) {
    throw await beginError(folder, number, bytes.length, error)
  }
  const damaged = segments.map((segment) => segment.number)
  await setAside(folder, damaged)
  return { fd, number, bytes: bytes.length, earlier: [] }
}

async function beginError(folder: string, number: number, required: number, cause: unknown): Promise<EngineError> {
  const errno = errnoOf(cause)
  if (errno !== 'ENOSPC' && errno !== 'EDQUOT') return unwritable(segmentPath(folder, number), cause)
  const available = await freeBytes(folder)
  const text = `the journal in ${folder} cannot begin: it takes ${required} bytes, ${available} are free there`
  const resourceInfo = { required, available, current: null, limit: null, unit: 'bytes' as const }
  return createError('JOURNAL_WRITE_FAILED', text, { path: folder, errno, resourceInfo }, { cause })
}

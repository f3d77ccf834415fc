/** What the records of a journal add up to. Applying a record twice changes nothing, so a snapshot may overlap what follows it. */
import type {
  AcceptedRecord,
  ExpertsRecord,
  FailedRecord,
  FinishedRecord,
  JournalRecord,
  ModelRecord,
  PersistedRecord,
  StartRecord,
  TierFolderRecord,
  TierSetRecord,
  TokensRecord
} from './records.js'

/** A request that is in the journal. */
export interface JournaledRequest {
  readonly accepted: AcceptedRecord
  tokens: number[]
  /** Per token; where the request asks for them. */
  logprobs: number[]
  top: { token: number; logprob: number }[][]
  /** Tokens handed to the consumer, at least. */
  delivered: number
  finished: FinishedRecord | undefined
  failed: FailedRecord | undefined
  /** Milliseconds since the epoch of its last record that has a time. */
  at: number
  /** Bytes of its records. */
  bytes: number
}

export class JournalState {
  /** The latest start of an engine. */
  start: StartRecord | undefined
  /** Every load that a request names, and those that are loaded or inherited. */
  readonly models = new Map<number, ModelRecord>()
  readonly loaded = new Set<number>()
  /** What engines that are gone had loaded, and none since: one that was killed before it could do so has not undone it. */
  readonly inherited = new Set<number>()
  readonly tierSets = new Map<number, TierSetRecord>()
  /** Of each load, by tier. */
  readonly tierFolders = new Map<number, Map<string, TierFolderRecord>>()
  readonly experts = new Map<number, ExpertsRecord[]>()
  readonly persisted = new Map<number, PersistedRecord>()
  readonly requests = new Map<string, JournaledRequest>()
  lastLoad = 0
  /** Bytes of the records of each load. */
  readonly #loadBytes = new Map<number, number>()

  /** What is needed still, in bytes of records. */
  get liveBytes(): number {
    let bytes = 0
    for (const load of this.#loadBytes.values()) bytes += load
    for (const request of this.requests.values()) bytes += request.bytes
    return bytes
  }

  apply(record: JournalRecord, bytes: number): void {
    switch (record.type) {
      case 'segment':
        return
      case 'start':
        this.start = record
        // What another process had loaded went with it.
        for (const load of this.loaded) this.inherited.add(load)
        this.loaded.clear()
        return
      case 'model':
        for (const load of this.inherited) if (this.models.get(load)?.id === record.id) this.inherited.delete(load)
        this.models.set(record.load, record)
        this.loaded.add(record.load)
        this.lastLoad = Math.max(this.lastLoad, record.load)
        this.#count(record.load, bytes)
        this.#forgetUnused()
        return
      case 'unload':
        this.loaded.delete(record.load)
        this.inherited.delete(record.load)
        this.#forgetUnused()
        return
      case 'tierSet':
        if (!this.models.has(record.load)) return
        this.tierSets.set(record.load, record)
        this.#count(record.load, bytes)
        return
      case 'tierFolder': {
        if (!this.models.has(record.load)) return
        const folders = this.tierFolders.get(record.load) ?? new Map<string, TierFolderRecord>()
        this.tierFolders.set(record.load, folders.set(record.tier, record))
        this.#count(record.load, bytes)
        return
      }
      case 'experts': {
        const changes = this.experts.get(record.load) ?? []
        if (!this.models.has(record.load) || changes.some(({ epoch }) => epoch === record.epoch)) return
        this.experts.set(record.load, [...changes, record])
        this.#count(record.load, bytes)
        return
      }
      case 'persisted':
        if (!this.models.has(record.load)) return
        this.persisted.set(record.load, record)
        this.#count(record.load, bytes)
        return
      case 'accepted':
        if (this.requests.has(record.id)) return
        this.requests.set(record.id, {
          accepted: record,
          tokens: [],
          logprobs: [],
          top: [],
          delivered: 0,
          finished: undefined,
          failed: undefined,
          at: record.at,
          bytes
        })
        return
      case 'acknowledged':
        this.forget(record.id)
        return
    }
    const request = this.requests.get(record.id)
    if (!request) return
    request.bytes += bytes
    if (record.type === 'tokens') {
      addTokens(request, record)
      return
    }
    request.at = record.at
    if (record.type === 'finished') request.finished = record
    request.failed = record.type === 'failed' ? record : undefined
  }

  /** Takes a request out, and the loads that nothing needs without it. */
  forget(id: string): void {
    if (this.requests.delete(id)) this.#forgetUnused()
  }

  /** Takes a change of experts out that could not be written. */
  forgetExperts(load: number, epoch: number): void {
    const left = (this.experts.get(load) ?? []).filter((record) => record.epoch !== epoch)
    this.experts.set(load, left)
  }

  /** Takes out what ended before `before` (milliseconds since the epoch). Requests that have not ended stay. */
  expire(before: number): void {
    for (const [id, { finished, failed, at }] of this.requests) {
      if ((finished || failed) && at < before) this.forget(id)
    }
  }

  /** The records that give this state. */
  *snapshot(): Generator<JournalRecord> {
    if (this.start) yield this.start
    for (const record of this.models.values()) {
      yield record
      const tierSet = this.tierSets.get(record.load)
      if (tierSet) yield tierSet
      yield* this.tierFolders.get(record.load)?.values() ?? []
      yield* this.experts.get(record.load) ?? []
      const persisted = this.persisted.get(record.load)
      if (persisted) yield persisted
    }
    for (const request of this.requests.values()) {
      const { accepted, tokens, logprobs, top, delivered, finished, failed } = request
      yield accepted
      if (tokens.length > 0) {
        const record: TokensRecord = { type: 'tokens', id: accepted.id, from: 0, tokens, delivered }
        if (logprobs.length > 0) record.logprobs = logprobs
        if (top.length > 0) record.top = top
        yield record
      }
      if (finished) yield finished
      else if (failed) yield failed
    }
    // Last, because an unloaded model that no request names is forgotten.
    for (const { load, at } of this.models.values()) {
      if (!this.loaded.has(load) && !this.inherited.has(load)) yield { type: 'unload', load, at }
    }
  }

  #count(load: number, bytes: number): void {
    this.#loadBytes.set(load, (this.#loadBytes.get(load) ?? 0) + bytes)
  }

  #forgetUnused(): void {
    const needed = new Set([...this.loaded, ...this.inherited])
    for (const { accepted } of this.requests.values()) needed.add(accepted.load)
    for (const load of this.models.keys()) {
      if (needed.has(load)) continue
      this.models.delete(load)
      this.#loadBytes.delete(load)
      this.tierSets.delete(load)
      this.tierFolders.delete(load)
      this.experts.delete(load)
      this.persisted.delete(load)
    }
  }
}

/** Takes over tokens that continue what there is; behind a gap they are computed again, with the same result. */
function addTokens(request: JournaledRequest, record: TokensRecord): void {
  const have = request.tokens.length
  if (record.from <= have && record.from + record.tokens.length > have) {
    const known = have - record.from
    // A failed request that was resumed.
    request.failed = undefined
    for (let i = known; i < record.tokens.length; i++) {
      request.tokens.push(record.tokens[i]!)
      if (record.logprobs) request.logprobs.push(record.logprobs[i]!)
      if (record.top) request.top.push(record.top[i]!)
    }
  }
  request.delivered = Math.max(request.delivered, record.delivered)
}

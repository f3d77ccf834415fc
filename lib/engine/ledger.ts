/** The requests of one engine by id: those that run, and those that its journal keeps. */
import type { EngineError } from '../errors/index.js'
import { createError, isEngineError } from '../errors/index.js'
import type { ChangeRecord } from '../experts/history.js'
import type { FinalItem, TokenItem } from '../generation/items.js'
import type { CheckedRequest } from '../generation/options.js'
import type { RequestLog } from '../generation/request-log.js'
import type { EarlierLoad, Journal, JournaledRequest, ModelIdentity, ModelRecord } from '../journal/index.js'
import { sameModel } from './model-identity.js'
import { storedRequest } from './stored-request.js'

type End = (error: EngineError) => Promise<void>

export class Ledger {
  readonly journal: Journal | undefined
  /** What ends each request that runs. */
  readonly #running = new Map<string, End>()
  /** Number of each loaded model's load in the journal. */
  readonly #loads = new Map<string, number>()

  constructor(journal: Journal | undefined) {
    this.journal = journal
  }

  /**
   * The load that one of the same id goes on with: it had the same file, has requests that have not ended, or was loaded when the last
   * engine ended.
   */
  earlierLoad(id: string, identity: ModelIdentity): EarlierLoad | undefined {
    const isSame = ({ model, persisted }: EarlierLoad) =>
      [model.identity, ...persisted].some((own) => sameModel(own, identity))
    return this.journal?.earlierLoads(id).find(isSame)
  }

  /** A model was loaded, with the changed experts of an earlier load: requests for its id belong to this load from here on. JOURNAL_WRITE_FAILED. */
  async modelLoaded(
    model: Omit<ModelRecord, 'type' | 'load' | 'at'>,
    changes: readonly ChangeRecord[] = []
  ): Promise<void> {
    const { journal } = this
    if (!journal) return
    const load = journal.modelLoaded(model)
    this.#loads.set(model.id, load)
    await Promise.all(changes.map(({ epoch, experts }) => journal.expertsChanged(load, epoch, [...experts])))
  }

  /** Experts of a model have changed; resolves when that is durable. JOURNAL_WRITE_FAILED. */
  async expertsChanged(id: string, { epoch, experts }: ChangeRecord): Promise<void> {
    const load = this.#loads.get(id)
    if (load !== undefined) await this.journal?.expertsChanged(load, epoch, [...experts])
  }

  /** Changed experts of a model are about to be in its checkpoint: resolves when it is certain that either is recognised. JOURNAL_WRITE_FAILED. */
  async persisting(id: string, before: ModelIdentity, after: ModelIdentity): Promise<void> {
    const load = this.#loads.get(id)
    if (load !== undefined) await this.journal?.persisting(load, before, after)
  }

  /** Epochs of a model's requests that have not ended, of earlier loads too. */
  unfinishedEpochs(id: string): number[] {
    return this.journal?.unfinishedEpochs(id) ?? []
  }

  /** `latencyBudgetMs`: where it was chosen by one, as those of later requests are. */
  tierSetActivated(id: string, tiers: readonly string[], latencyBudgetMs?: number): void {
    const load = this.#loads.get(id)
    if (load !== undefined) this.journal?.tierSetActivated(load, [...tiers], latencyBudgetMs)
  }

  /** Tiers of a model are in another folder from now on: `done` when that is durable (JOURNAL_WRITE_FAILED), until `undo`. */
  tierFolders(id: string, tiers: readonly string[], folder: string): { done: Promise<void>; undo: () => void } {
    const load = this.#loads.get(id)
    const told = load === undefined ? undefined : this.journal?.tierFolders(load, tiers, folder)
    return told ?? { done: Promise.resolve(), undo: () => {} }
  }

  modelUnloaded(id: string): void {
    const load = this.#loads.get(id)
    if (load !== undefined) this.journal?.modelUnloaded(load)
    this.#loads.delete(id)
  }

  /** The load of a model that is loaded. */
  loadOf(id: string): ModelRecord | undefined {
    const load = this.#loads.get(id)
    return load === undefined ? undefined : this.journal?.load(load)
  }

  /**
   * The log of a request that is about to begin; `again` where it is in the journal already. Throws REQUEST_ALREADY_EXISTS.
   */
  open(requestId: string, request: CheckedRequest, prompt: Int32Array, again: boolean): RequestLog {
    this.#checkFree(requestId, again)
    const { journal } = this
    const load = this.#loads.get(request.model)
    let begun = false
    const end = (): void => {
      if (begun) this.#running.delete(requestId)
    }
    return {
      begin: (ending, epoch) => {
        this.#checkFree(requestId, again)
        begun = true
        this.#running.set(requestId, ending)
        if (again) journal?.resumed(requestId)
        if (!journal || load === undefined || again) return undefined
        return journal.accept(requestId, load, storedRequest(request, prompt), epoch)
      },
      produced: (position: number, item: TokenItem) => journal?.produced(requestId, position, item),
      delivered: (count: number) => journal?.delivered(requestId, count),
      finished: ({ finishReason, usage }: FinalItem) => {
        if (begun) journal?.finished(requestId, finishReason, usage)
        end()
      },
      failed: (error: unknown) => {
        // A request that a shutdown ends is running for the next engine, and one that nobody could compute.
        const code = isEngineError(error) ? error.code : 'RUNTIME_INVARIANT_VIOLATED'
        if (begun && code !== 'ENGINE_DISPOSED' && code !== 'RUNTIME_STEP_STUCK') journal?.failed(requestId, code)
        end()
      },
      abandoned: () => {
        if (begun) journal?.failed(requestId, 'CANCELLED')
        end()
      }
    }
  }

  /** A request of the journal, taken away from whoever has it now. Throws REQUEST_NOT_FOUND. */
  async take(requestId: string, method: string): Promise<JournaledRequest> {
    this.find(requestId, method)
    const text = `${method} has taken the request ${requestId} over`
    await this.#running.get(requestId)?.(createError('CANCELLED', text, { requestId, method }))
    return this.find(requestId, method)
  }

  /** The client has the request's text, or wants it no more. Throws REQUEST_NOT_FOUND, JOURNAL_WRITE_FAILED. */
  async acknowledge(requestId: string): Promise<void> {
    await this.take(requestId, 'acknowledgeRequest')
    await this.journal?.acknowledge(requestId)
  }

  /** Throws REQUEST_NOT_FOUND. */
  find(requestId: string, method: string): JournaledRequest {
    const request = this.journal?.get(requestId)
    if (request) return request
    const where = this.journal ? 'the journal' : 'an engine without a journal'
    throw createError('REQUEST_NOT_FOUND', `${method}: ${where} has no request ${requestId}`, { requestId, method })
  }

  #checkFree(requestId: string, again: boolean): void {
    const running = this.#running.has(requestId)
    if (!running && (again || !this.journal?.get(requestId))) return
    const where = running ? 'is running' : 'is in the journal'
    throw createError('REQUEST_ALREADY_EXISTS', `a request with the id ${requestId} ${where}`, { requestId, running })
  }
}

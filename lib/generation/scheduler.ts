/**
 * Continuous batching for one model: each native step takes one token of every sequence that decodes, and prompt tokens of those
 * that begin, up to a budget. Sequences are stepped only while their consumers want tokens. What a sequence is stepped together
 * with changes no bit of it, so a step that one of them interrupts is simply run again for the others.
 */
import { performance } from 'node:perf_hooks'
import type { ArchiveSession, ExpertArchive } from '../archive/expert-archive.js'
import type { EngineError } from '../errors/index.js'
import { isEngineError } from '../errors/index.js'
import { StepWatchdog } from '../guards/step-watchdog.js'
import type { NativeCancel, NativeModel, StepItem, StepResult } from '../native.js'
import type { Generation } from './generation.js'

/** After this many interrupted steps in a row the next one is left to end, so that aborts cannot starve the others. */
const maxInterruptions = 3

interface Running {
  members: readonly Generation[]
  items: readonly StepItem[]
  done: Promise<void>
}

/** A generation whose next step needs experts of the archive. */
interface Visit {
  session: ArchiveSession
  controller: AbortController
  /** The fetch under way; undefined while the step is run again. */
  fetching: Promise<void> | undefined
}

export interface SchedulerOptions {
  model: NativeModel
  maxBatchTokens: number
  createCancel(): NativeCancel
  /** Has the experts that no local file has. */
  archive?: ExpertArchive | undefined
  /** A step has been computed, in so many milliseconds; called before its results are handed out. */
  onStep?(members: readonly Generation[], items: readonly StepItem[], ms: number): void
  /** A failure that is fatal for the engine; the generations of the step have been told. */
  onFatal(error: unknown): void
  stuck?: StuckOptions | undefined
}

/** What is done about a step that gets nowhere. */
export interface StuckOptions {
  /** Milliseconds that it may do so; undefined: for ever. */
  limitMs: number | undefined
  /** A number that grows while a step reads experts. */
  progress?: (() => number) | undefined
  /** The error that its requests end with, and those that wait behind it. `work` resolves when it ends after all. */
  tell(elapsedMs: number, requests: string[], work: Promise<unknown>): EngineError
}

export class Scheduler {
  readonly #options: SchedulerOptions
  /** Least recently served first. */
  readonly #members = new Set<Generation>()
  readonly #visits = new Map<Generation, Visit>()
  /** Tokens of a step at most, of those whose larger steps need more than the archive can bring at once. */
  readonly #most = new WeakMap<Generation, number>()
  readonly #watchdog: StepWatchdog
  /** While a step is stuck: the error for whoever comes. */
  #stuck: EngineError | undefined
  #cancel: NativeCancel
  #interrupted = false
  #interruptions = 0
  #running: Running | undefined
  #active = false
  #waking = false
  /** Set once no more work is taken: the error for whoever comes. */
  #closed: ((generation: Generation) => unknown) | undefined

  constructor(options: SchedulerOptions) {
    this.#options = options
    this.#cancel = options.createCancel()
    const { limitMs, progress } = options.stuck ?? {}
    this.#watchdog = new StepWatchdog({ limitMs, progress, onStuck: (elapsedMs) => this.#onStuck(elapsedMs) })
  }

  /** Sequences that are not finished. */
  get size(): number {
    return this.#members.size
  }

  /** Takes a generation on; after close() it fails at once. */
  add(generation: Generation): void {
    const refusal = this.#closed?.(generation) ?? this.#stuck
    if (refusal) generation.fail(refusal)
    else this.#members.add(generation)
  }

  /** Begins a step soon if one is wanted. All that ask in the same turn of the event loop share it. */
  wake(): void {
    if (this.#active || this.#waking || this.#closed) return
    this.#waking = true
    setImmediate(() => {
      this.#waking = false
      void this.#run()
    })
  }

  /**
   * Takes a generation out and frees its sequence; resolves when that is done. An urgent removal interrupts the step that it is
   * part of; another one does so only where nobody else would have to wait for it.
   */
  async remove(generation: Generation, urgent: boolean): Promise<void> {
    this.#members.delete(generation)
    this.#visits.get(generation)?.controller.abort()
    const running = this.#running
    const at = running ? running.members.indexOf(generation) : -1
    if (running && at >= 0) {
      const others = running.members.some((member) => this.#members.has(member))
      const long = running.items[at]!.tokens.length > 1
      if (!others || ((urgent || long) && this.#interruptions < maxInterruptions)) this.#interrupt()
      await running.done
    }
    if (this.#visits.has(generation)) await this.#leave(generation)
    generation.release()
  }

  /** Ends every generation with the error that `makeError` gives for it, and waits until nothing runs. Takes no more work if `forGood`. */
  async close(makeError: (generation: Generation) => unknown, forGood = true): Promise<void> {
    if (forGood) this.#closed ??= makeError
    const members = [...this.#members]
    this.#members.clear()
    for (const { controller } of this.#visits.values()) controller.abort()
    if (this.#running) this.#interrupt()
    await this.#running?.done
    if (forGood) this.#watchdog.end()
    for (const member of members) {
      if (this.#visits.has(member)) await this.#leave(member)
      member.release()
      member.fail(makeError(member))
    }
  }

  /** Nobody waits for what may never end: whoever is in the step, or behind it, is told, and the step is cancelled. */
  #onStuck(elapsedMs: number): void {
    const { stuck } = this.#options
    const running = this.#running
    if (!running || !stuck) return
    const members = [...this.#members]
    const ids = members.map(({ requestId }) => requestId)
    const error = stuck.tell(elapsedMs, ids, running.done)
    this.#stuck = error
    this.#interrupt()
    for (const member of members) {
      member.fail(error)
      void this.remove(member, true)
    }
  }

  #interrupt(): void {
    this.#interrupted = true
    this.#cancel.cancel()
  }

  async #run(): Promise<void> {
    if (this.#active) return
    this.#active = true
    for (let batch = this.#compose(); batch; batch = this.#compose()) {
      const { members, items } = batch
      const done = this.#step(members, items)
      this.#running = { members, items, done }
      await done
      this.#running = undefined
    }
    this.#active = false
  }

  /** The next step, or undefined when nobody wants one. */
  #compose(): { members: Generation[]; items: StepItem[] } | undefined {
    let wanting = [...this.#members].filter((member) => member.wanting && !this.#visits.get(member)?.fetching)
    const alone = wanting.find((member) => member.isolated)
    if (alone) wanting = [alone]
    const members: Generation[] = []
    const items: StepItem[] = []
    let budget = this.#options.maxBatchTokens
    let waiting = wanting.length
    for (const member of wanting) {
      waiting--
      if (budget <= 0) break
      try {
        // A prompt takes what is left when everyone after it has had one token.
        const room = Math.min(Math.max(1, budget - waiting), this.#most.get(member) ?? budget)
        const item = member.stepItem(room)
        budget -= item.tokens.length
        items.push(item)
        members.push(member)
        this.#members.delete(member)
        this.#members.add(member)
      } catch (error) {
        this.#drop(member, error)
      }
    }
    return items.length > 0 ? { members, items } : undefined
  }

  /** One native step; never rejects. */
  async #step(members: readonly Generation[], items: readonly StepItem[]): Promise<void> {
    let result: StepResult | undefined
    let failure: unknown
    const began = performance.now()
    try {
      result = await this.#watchdog.run(() => this.#options.model.step([...items], this.#cancel))
    } catch (error) {
      failure = error
    }
    if (result) this.#options.onStep?.(members, items, performance.now() - began)
    this.#running = undefined
    this.#stuck = undefined
    const interrupted = this.#interrupted
    if (interrupted) {
      this.#interrupted = false
      this.#cancel = this.#options.createCancel()
    }
    if (result) {
      this.#interruptions = 0
      this.#accept(members, items, result)
    } else if (interrupted && isEngineError(failure) && failure.code === 'CANCELLED') {
      // Every sequence is as it was: the next step takes those that are still here.
      this.#interruptions++
    } else {
      this.#fail(members, items, failure)
    }
  }

  #accept(members: readonly Generation[], items: readonly StepItem[], result: StepResult): void {
    for (const [i, member] of members.entries()) {
      if (!this.#members.has(member)) continue
      member.isolated = false
      void this.#leave(member)
      const own = result.items[i]!
      if (own.error) {
        this.#drop(member, own.error)
        continue
      }
      try {
        member.accept(items[i]!, own)
      } catch (error) {
        this.#drop(member, error)
      }
      if (member.finished) {
        this.#members.delete(member)
        member.release()
      }
    }
  }

  /** A step failed as a whole: each of its sequences is tried alone, so that only the one at fault ends. */
  #fail(members: readonly Generation[], items: readonly StepItem[], failure: unknown): void {
    const left = members.filter((member) => this.#members.has(member))
    const fatal = isEngineError(failure) && failure.severity === 'fatal'
    if (left.length > 1 && !fatal) {
      for (const member of left) member.isolated = true
      return
    }
    for (const member of left) {
      const { archive } = this.#options
      if (archive?.mends(failure)) this.#visit(member, archive, failure, items[members.indexOf(member)]!.tokens.length)
      else this.#drop(member, failure)
    }
    if (fatal) this.#options.onFatal(failure)
  }

  /** Fetches what a step of one generation failed for; the others are stepped meanwhile, and then it is again. */
  #visit(member: Generation, archive: ExpertArchive, failure: unknown, tokens: number): void {
    let visit = this.#visits.get(member)
    if (!visit) {
      visit = { session: archive.session(), controller: new AbortController(), fetching: undefined }
      this.#visits.set(member, visit)
    }
    const { session, controller } = visit
    const own = visit
    // Alone again: another one's failure would make it wait once more.
    member.isolated = true
    const fetch = async (): Promise<void> => {
      try {
        if (await session.bring(failure, tokens, controller.signal)) return
        this.#most.set(member, Math.ceil(tokens / 2))
        session.end()
        own.session = archive.session()
      } catch (error) {
        // Whoever aborted it tells the consumer why.
        if (this.#members.has(member)) this.#drop(member, error)
      }
    }
    visit.fetching = fetch().finally(() => {
      visit.fetching = undefined
      this.wake()
    })
  }

  /** A generation needs the archive no more, or has gone. */
  async #leave(member: Generation): Promise<void> {
    const visit = this.#visits.get(member)
    if (!visit) return
    this.#visits.delete(member)
    await visit.fetching
    visit.session.end()
  }

  #drop(member: Generation, error: unknown): void {
    this.#members.delete(member)
    void this.#leave(member)
    member.release()
    member.fail(error)
  }
}

/** Decides which requests run now, which wait, and which are told at once that they cannot, why, and when to come again. */
import type { EngineError } from '../errors/index.js'
import type { Capacity } from './admission-errors.js'
import { clientRefusal, refusal, type UnavailableReason } from './admission-errors.js'
import type { ClientLimits } from './client-limits.js'
import { Client } from './client-limits.js'
import type { Clock } from './clock.js'
import { systemClock } from './clock.js'
import type { Deadline } from './deadline.js'
import { FairQueue } from './fair-queue.js'
import { checkAdmission, checkAsk } from './options.js'

export interface AdmissionLimits {
  /** Requests that run at a time. */
  concurrency: number
  /** Requests that wait; 0: none does. */
  queueDepth: number
  /** How long one waits at the most. */
  queueWaitMs: number
  /** Tokens of the requests that run, prompts and texts together; one alone may have more. */
  tokensInFlight?: number | undefined
  /** Bytes of `memory()` that stay free. */
  memoryReserveBytes: number
  perClient: ClientLimits
}

export interface AdmissionNeeds {
  /** Bytes that there are for the KV caches of all admitted requests together: what is free, and what these have filled of it. */
  memory(): number
  /** Tokens a second while requests run, of all of them together; undefined where it is not known yet. */
  rate(): number | undefined
  /** What one client may take, instead of `perClient`; the same whenever it is asked. */
  limitsOf?(client: string): ClientLimits
  clock?: Clock | undefined
}

export interface AdmissionAsk {
  /** Who asks; it is told in refusals, and must be no secret. */
  client: string
  /** 1 to 10: the client's share of the turns while this is its next request. */
  priority: number
  promptTokens: number
  maxTokens: number
  /** 0: none of `memory()`. */
  kvBytes: number
  deadline: Deadline
}

export interface Ticket {
  readonly queuedMs: number
  /** Tokens that it has used until now, of its prompt and its text together. */
  used(tokens: number): void
  /** It has ended; a second time does nothing. */
  release(): void
}

export interface AdmissionStats {
  running: number
  queued: number
  /** Clients that are remembered. */
  clients: number
  tokensInFlight: number
  /** Of the KV caches of those that run, when they are full; and what of that is filled. */
  kvBytes: number
  kvBytesFilled: number
  admitted: number
  /** By the reason of the refusal. */
  refused: Readonly<Record<string, number>>
  draining: boolean
}

interface Entry {
  ask: AdmissionAsk
  client: string
  weight: number
  cost: number
  used: number | undefined
  queuedAt: number
  /** Ends its waiting. */
  left: AbortController
  admit: (ticket: Ticket) => void
  refuse: (error: EngineError) => void
}

/**
 * Not the signal's own reason, whose stack holds the functions that were running: each request begins in the end of the one before, so that none
 * of them could be collected while there is always one that waits.
 */
const hasLeft = 'it waits no longer'

/** Clients are forgotten when there are more of them than this, and they have nothing to be remembered for. */
const mostIdleClients = 256

export class AdmissionControl {
  readonly #limits: AdmissionLimits
  readonly #needs: AdmissionNeeds
  readonly #clock: Clock
  readonly #queue = new FairQueue<Entry>()
  readonly #running = new Set<Entry>()
  readonly #clients = new Map<string, Client>()
  readonly #refused: Record<string, number> = {}
  #admitted = 0
  #draining = false

  /** VALIDATION_ERROR for bad limits. */
  constructor(limits: AdmissionLimits, needs: AdmissionNeeds) {
    checkAdmission(limits)
    this.#limits = limits
    this.#needs = needs
    this.#clock = needs.clock ?? systemClock
  }

  /**
   * Why a request of this client would be refused whatever it asks for; undefined where that is not known before it is read. Nothing is taken.
   */
  precheck(client: string): EngineError | undefined {
    return this.#draining ? this.#unavailable('draining') : (this.#overLimit(client, 1) ?? this.#queueFull(client))
  }

  /**
   * Resolves when the request may run; release its ticket when it has ended. SERVICE_UNAVAILABLE {reason, current, limit, retryAfterSeconds},
   * RATE_LIMITED {the same, windowSeconds}, the deadline's error when that ends first, VALIDATION_ERROR for a bad ask.
   */
  async admit(ask: AdmissionAsk): Promise<Ticket> {
    checkAsk(ask)
    ask.deadline.check()
    const cost = ask.promptTokens + ask.maxTokens
    const over = this.#draining ? this.#unavailable('draining') : this.#overLimit(ask.client, cost)
    if (over) throw over
    return new Promise((admit, refuse) => {
      const { client, priority: weight } = ask
      const queuedAt = this.#clock.now()
      const left = new AbortController()
      this.#enter({ ask, client, weight, cost, used: undefined, queuedAt, left, admit, refuse })
    })
  }

  /** Its place among those that wait, from 1, if nothing more came; 0 where it does not wait. */
  position(ask: AdmissionAsk): number {
    return this.#queue.order().findIndex((entry) => entry.ask === ask) + 1
  }

  stats(): AdmissionStats {
    return {
      running: this.#running.size,
      queued: this.#queue.size,
      clients: this.#clients.size,
      tokensInFlight: this.#sum(({ cost }) => cost),
      kvBytes: this.#sum(({ ask }) => ask.kvBytes),
      kvBytesFilled: this.#sum(filled),
      admitted: this.#admitted,
      refused: { ...this.#refused },
      draining: this.#draining
    }
  }

  /** It was told to drain. */
  get draining(): boolean {
    return this.#draining
  }

  /** Refuses what comes from now on; what waits still has its turn. */
  drain(): void {
    this.#draining = true
  }

  #enter(entry: Entry): void {
    const client = this.#clientOf(entry.client)
    this.#queue.push(entry)
    client.waiting++
    const now = this.#clock.now()
    client.requests?.take(1, now)
    client.tokens?.take(entry.cost, now)
    if (this.#endsTooLate(entry)) this.#leave(entry, () => this.#unavailable('deadline', entry))
    else this.#pump()
    if (entry.left.signal.aborted) return
    const { queueDepth, queueWaitMs } = this.#limits
    if (client.waiting > (this.#limitsOf(entry.client).queueDepth ?? Number.POSITIVE_INFINITY)) {
      this.#leave(entry, () => this.#busyClient(entry.client))
    } else if (this.#queue.size > queueDepth) {
      const victim = this.#victim(entry)
      const reason = queueDepth === 0 ? (this.#lacks(victim) ?? 'concurrency') : 'queue_full'
      this.#leave(victim, () => this.#unavailable(reason, victim))
    }
    if (entry.left.signal.aborted) return
    const { deadline } = entry.ask
    const onEnd = (): void => this.#leave(entry, () => deadline.error())
    deadline.signal.addEventListener('abort', onEnd, { once: true, signal: entry.left.signal })
    this.#clock.sleep(queueWaitMs, entry.left.signal, { keepsAlive: false }).then(
      () => this.#leave(entry, () => this.#waitedTooLong(entry)),
      () => {}
    )
  }

  /** What waits and may run begins, in fair order; the next one is not passed by smaller ones. */
  #pump(): void {
    for (;;) {
      const entry = this.#queue.peek((client) => this.#isFull(client))
      if (!entry) return
      const lack = this.#lacks(entry)
      // Nothing will be given back.
      if (lack === 'memory' && this.#running.size === 0) this.#leave(entry, () => this.#unavailable('memory', entry))
      else if (lack) return
      else this.#begin(entry)
    }
  }

  #begin(entry: Entry): void {
    const client = this.#clientOf(entry.client)
    this.#queue.take(entry)
    client.waiting--
    client.running++
    this.#running.add(entry)
    this.#admitted++
    entry.left.abort(hasLeft)
    entry.admit({
      queuedMs: this.#clock.now() - entry.queuedAt,
      used: (tokens) => {
        entry.used = tokens
      },
      release: () => {
        if (!this.#running.delete(entry)) return
        client.running--
        // Below nothing where it was more than it had asked for.
        client.tokens?.give(entry.cost - (entry.used ?? entry.cost), this.#clock.now())
        this.#forgetIdle()
        this.#pump()
      }
    })
  }

  /** Ends the waiting of a request without a turn: its tokens are given back, the attempt counts. */
  #leave(entry: Entry, why: () => EngineError): void {
    if (!this.#queue.remove(entry)) return
    const client = this.#clientOf(entry.client)
    client.waiting--
    client.tokens?.give(entry.cost, this.#clock.now())
    entry.left.abort(hasLeft)
    entry.refuse(why())
    this.#forgetIdle()
    // It may have been in the way of others.
    this.#pump()
  }

  /** What there is too little of for it to begin now. */
  #lacks(entry: Entry): 'concurrency' | 'tokens' | 'memory' | undefined {
    const { concurrency, tokensInFlight = Number.POSITIVE_INFINITY, memoryReserveBytes } = this.#limits
    if (this.#running.size >= concurrency) return 'concurrency'
    if (this.#running.size > 0 && this.#sum(({ cost }) => cost) + entry.cost > tokensInFlight) return 'tokens'
    // It takes none of that memory: nothing of it is missing.
    if (entry.ask.kvBytes === 0) return undefined
    const kvBytes = this.#sum(({ ask }) => ask.kvBytes) + entry.ask.kvBytes
    return kvBytes + memoryReserveBytes > this.#needs.memory() ? 'memory' : undefined
  }

  #isFull(client: string): boolean {
    const { concurrency } = this.#limitsOf(client)
    return concurrency !== undefined && (this.#clients.get(client)?.running ?? 0) >= concurrency
  }

  /** Where the queue is full: the last one of who has the most waiting, so that nobody fills it alone; else the one that came. */
  #victim(entry: Entry): Entry {
    const longest = this.#queue.longest()!
    return this.#queue.sizeOf(longest) > this.#queue.sizeOf(entry.client) ? this.#queue.last(longest)! : entry
  }

  #queueFull(client: string): EngineError | undefined {
    const { concurrency, queueDepth } = this.#limits
    if (this.#running.size < concurrency || this.#queue.size < queueDepth) return undefined
    const longest = this.#queue.longest()
    // A client that has less waiting than another takes a place from it.
    if (longest !== undefined && this.#queue.sizeOf(longest) > this.#queue.sizeOf(client) + 1) return undefined
    return this.#unavailable(queueDepth === 0 ? 'concurrency' : 'queue_full')
  }

  #endsTooLate(entry: Entry): boolean {
    const rate = this.#needs.rate() ?? 0
    if (rate <= 0) return false
    const order = this.#queue.order()
    const before = order.slice(0, order.indexOf(entry)).reduce((sum, { cost }) => sum + cost, 0)
    const ahead = before + this.#untilTurn(entry)
    return ahead > 0 && ((ahead + entry.cost) / rate) * 1000 > entry.ask.deadline.remainingMs()
  }

  /** Tokens that those who run compute, each the same share, until one of them makes room; 0 where there is room. */
  #untilTurn(entry: Entry): number {
    const full = this.#isFull(entry.client)
    if (!full && !this.#lacks(entry)) return 0
    const blocking = [...this.#running].filter(({ client }) => !full || client === entry.client)
    return blocking.length === 0 ? 0 : Math.min(...blocking.map(remaining)) * this.#running.size
  }

  #overLimit(name: string, cost: number): EngineError | undefined {
    const now = this.#clock.now()
    const client = this.#clients.get(name) ?? new Client(this.#limitsOf(name), now)
    for (const [reason, bucket, amount] of [
      ['client_rate', client.requests, 1],
      ['client_tokens', client.tokens, cost]
    ] as const) {
      const waitMs = bucket?.waitMs(amount, now) ?? 0
      if (!bucket || waitMs === 0) continue
      const available = Math.max(0, Math.floor(bucket.level(now)))
      const capacity = { required: amount, available, current: bucket.limit - available, limit: bucket.limit }
      return this.#counted(clientRefusal(reason, name, capacity, Math.ceil(waitMs / 1000)))
    }
    return undefined
  }

  #waitedTooLong(entry: Entry): EngineError {
    if (this.#isFull(entry.client)) return this.#busyClient(entry.client)
    const lack = this.#lacks(entry)
    return this.#unavailable(lack === 'tokens' || lack === 'memory' ? lack : 'queue_wait', entry)
  }

  #busyClient(name: string): EngineError {
    const { concurrency, queueDepth } = this.#limitsOf(name)
    const { running, waiting } = this.#clientOf(name)
    const limit = (concurrency ?? this.#limits.concurrency) + (queueDepth ?? this.#limits.queueDepth)
    const current = running + waiting
    const capacity = { required: 1, available: Math.max(0, limit - current), current, limit }
    return this.#counted(clientRefusal('client_concurrency', name, capacity, this.#retryAfter()))
  }

  #unavailable(reason: UnavailableReason, entry?: Entry): EngineError {
    return this.#counted(refusal(reason, this.#capacity(reason, entry), this.#retryAfter()))
  }

  /** What was asked for, and what there is of it. */
  #capacity(reason: UnavailableReason, entry: Entry | undefined): Capacity {
    const { concurrency, queueDepth, tokensInFlight, memoryReserveBytes } = this.#limits
    const of = (required: number, current: number, limit: number): Capacity => ({
      required,
      available: Math.max(0, limit - current),
      current,
      limit
    })
    if (reason === 'tokens') {
      const tokens = this.#sum(({ cost }) => cost)
      return of(entry?.cost ?? 0, tokens, tokensInFlight ?? tokens)
    }
    if (reason === 'memory') {
      const kvBytes = this.#sum(({ ask }) => ask.kvBytes)
      return of(entry?.ask.kvBytes ?? 0, kvBytes, Math.max(0, this.#needs.memory() - memoryReserveBytes))
    }
    if (reason === 'queue_full' || reason === 'queue_wait') return of(1, this.#queue.size, queueDepth)
    return of(1, this.#running.size, reason === 'draining' ? 0 : concurrency)
  }

  /** Seconds that the work ahead takes; undefined where nobody knows how fast it goes. */
  #retryAfter(): number | undefined {
    const rate = this.#needs.rate() ?? 0
    if (rate <= 0) return undefined
    return Math.ceil((this.#sum(remaining) + this.#queue.cost) / rate)
  }

  #sum(of: (entry: Entry) => number): number {
    let sum = 0
    for (const entry of this.#running) sum += of(entry)
    return sum
  }

  #counted(error: EngineError): EngineError {
    const reason = String(error.details.reason)
    this.#refused[reason] = (this.#refused[reason] ?? 0) + 1
    return error
  }

  #limitsOf(client: string): ClientLimits {
    return this.#needs.limitsOf?.(client) ?? this.#limits.perClient
  }

  #clientOf(name: string): Client {
    let client = this.#clients.get(name)
    if (!client) {
      client = new Client(this.#limitsOf(name), this.#clock.now())
      this.#clients.set(name, client)
    }
    return client
  }

  #forgetIdle(): void {
    if (this.#clients.size <= mostIdleClients) return
    const now = this.#clock.now()
    for (const [name, client] of this.#clients) if (client.isIdle(now)) this.#clients.delete(name)
  }
}

/** Bytes of its KV cache that hold tokens already. */
const filled = ({ ask, cost, used = 0 }: Entry): number =>
  cost > 0 ? Math.round(ask.kvBytes * Math.min(1, used / cost)) : 0

/** Tokens that a running request has still to take. */
const remaining = ({ cost, used = 0 }: Entry): number => Math.max(0, cost - used)

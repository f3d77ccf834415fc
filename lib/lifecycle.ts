/** The states of an engine and the only transitions between them. */
import type { EngineError } from './errors/index.js'
import { createError } from './errors/index.js'

/**
 * init: being set up. warm: up, nothing loaded yet. active: serving. expanding: gaining experts while serving. frozen: taking no
 * new requests, for maintenance. recovering: after a fatal failure. draining: ending what runs. closed: released.
 */
export type EngineState = 'init' | 'warm' | 'active' | 'expanding' | 'frozen' | 'recovering' | 'draining' | 'closed'

/** From each state, those that may follow it. */
export const transitions: Readonly<Record<EngineState, readonly EngineState[]>> = {
  init: ['warm', 'recovering', 'draining'],
  warm: ['active', 'recovering', 'draining'],
  active: ['expanding', 'frozen', 'recovering', 'draining'],
  expanding: ['active', 'recovering', 'draining'],
  frozen: ['warm', 'active', 'recovering', 'draining'],
  recovering: ['warm', 'active', 'closed'],
  draining: ['closed', 'recovering'],
  closed: []
}

export interface Transition {
  previous: EngineState
  next: EngineState
  reason: string
  /** Milliseconds since the epoch. */
  at: number
}

/** Holds the state of one engine. */
export class Lifecycle {
  #state: EngineState = 'init'
  readonly #onTransition: ((transition: Transition) => void) | undefined
  readonly #leaving = new Map<() => void, EngineState>()
  /** Of an engine that is frozen, or was when it began to recover: what its maintenance asks for, and what to call when it is over. */
  frozen: { reason: string; retryAfterSeconds: number; over: () => void } | undefined

  /** `onTransition` is called after each change; what it throws is ignored, a listener cannot stop a transition. */
  constructor(onTransition?: (transition: Transition) => void) {
    this.#onTransition = onTransition
  }

  get state(): EngineState {
    return this.#state
  }

  /** Whether the engine is up and sound: models may be loaded, and a failure is one to recover from. */
  get serving(): boolean {
    return this.#state === 'warm' || this.#state === 'active' || this.#state === 'expanding' || this.#state === 'frozen'
  }

  /** Calls `listener` when the engine leaves a state that it is in. Returns what calls that off. */
  onLeave(state: EngineState, listener: () => void): () => void {
    this.#leaving.set(listener, state)
    return () => {
      this.#leaving.delete(listener)
    }
  }

  /** Moves on from one state only. Throws LIFECYCLE_INVALID_TRANSITION when the engine is in another, or the table does not have it. */
  from(state: EngineState, next: EngineState, reason: string): void {
    if (this.#state !== state)
      throw this.#refusal(
        next,
        transitions[this.#state].filter((allowed) => allowed !== next)
      )
    this.to(next, reason)
  }

  /** Moves on. Throws LIFECYCLE_INVALID_TRANSITION {from, to, allowed} when the table does not have it. */
  to(next: EngineState, reason: string): void {
    const previous = this.#state
    const allowed = transitions[previous]
    if (!allowed.includes(next)) throw this.#refusal(next, allowed)
    this.#state = next
    for (const [listener, state] of this.#leaving) if (state === previous) listener()
    try {
      this.#onTransition?.({ previous, next, reason, at: Date.now() })
    } catch {
      // A listener's own failure is not the engine's.
    }
  }

  #refusal(to: EngineState, allowed: readonly EngineState[]): EngineError {
    const list = allowed.length > 0 ? allowed.join(', ') : 'nothing'
    const text = `the engine is ${this.#state}: it cannot become ${to} now, only ${list}`
    return createError('LIFECYCLE_INVALID_TRANSITION', text, { from: this.#state, to, allowed: [...allowed] })
  }
}

/** The states of an engine and the only transitions between them. */
import { createError } from './errors/index.js'

/**
 * init: being set up. warm: up, nothing loaded yet. active: serving. expanding: gaining experts while serving. frozen: serving
 * with nothing changing. recovering: after a fatal failure. draining: ending what runs. closed: released.
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

  /** `onTransition` is called after each change; what it throws is ignored, a listener cannot stop a transition. */
  constructor(onTransition?: (transition: Transition) => void) {
    this.#onTransition = onTransition
  }

  get state(): EngineState {
    return this.#state
  }

  /** Whether new work is accepted. */
  get serving(): boolean {
    return this.#state === 'warm' || this.#state === 'active' || this.#state === 'expanding' || this.#state === 'frozen'
  }

  /** Moves on. Throws LIFECYCLE_INVALID_TRANSITION {from, to, allowed} when the table does not have it. */
  to(next: EngineState, reason: string): void {
    const previous = this.#state
    const allowed = transitions[previous]
    if (!allowed.includes(next)) {
      const list = allowed.length > 0 ? allowed.join(', ') : 'nothing'
      throw createError(
        'LIFECYCLE_INVALID_TRANSITION',
        `the engine is ${previous}: it cannot become ${next}, only ${list}`,
        {
          from: previous,
          to: next,
          allowed: [...allowed]
        }
      )
    }
    this.#state = next
    try {
      this.#onTransition?.({ previous, next, reason, at: Date.now() })
    } catch {
      // A listener's own failure is not the engine's.
    }
  }
}

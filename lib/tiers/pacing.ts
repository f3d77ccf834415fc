/** Measures steps: what TierSets cost per token, and which requests overran their latency budget. */
import type { StepItem } from '../native.js'
import type { Choice, TierSelection } from './selection.js'

/** A request that has ended after more time per token than its budget. Milliseconds. */
export interface Overrun {
  choice: Choice
  msPerToken: number
  tokens: number
}

interface Pace {
  choice: Choice
  ms: number
  tokens: number
}

/** `Member`: one sequence's side of a step. */
export class Pacing<Member extends { onEnd(listener: () => void): void }> {
  readonly #selection: TierSelection
  readonly #paces = new WeakMap<Member, Pace>()

  constructor(selection: TierSelection) {
    this.#selection = selection
  }

  /** Follows a request to its end. */
  follow(member: Member, choice: Choice, onOverrun: (overrun: Overrun) => void): void {
    const pace: Pace = { choice, ms: 0, tokens: 0 }
    this.#paces.set(member, pace)
    member.onEnd(() => {
      const { ms, tokens } = pace
      if (tokens === 0) return
      const msPerToken = ms / tokens
      if (this.#selection.ended(choice, msPerToken)) onOverrun({ choice, msPerToken, tokens })
    })
  }

  /** A step took so long. One that read a prompt says nothing of a token's time. */
  stepped(members: readonly Member[], items: readonly StepItem[], ms: number): void {
    if (!items.every(({ tokens, sampling }) => tokens.length === 1 && sampling)) return
    const tiers = new Set<string>()
    for (const member of members) {
      const pace = this.#paces.get(member)
      if (!pace) return
      pace.ms += ms
      pace.tokens++
      for (const tier of pace.choice.tierSet.tiers) tiers.add(tier)
    }
    this.#selection.observe([...tiers], ms)
  }
}

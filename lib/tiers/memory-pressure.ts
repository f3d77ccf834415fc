/**
 * How much memory the experts may take when the machine runs short of it: a pure controller with hysteresis. It takes away at once, so
 * that the system never has to kill, and gives back slowly, when there has been room for a while.
 */

export interface MemorySample {
  /** Milliseconds that only grow. */
  at: number
  /** Bytes that the process may still take: MemAvailable, or what its control groups leave. */
  available: number
  /** Share of the last ten seconds in which some task waited for memory that this process could free, in percent (PSI `some avg10`); 0 where that is not known. */
  stall: number
  /** Bytes of the experts in memory now. */
  resident: number
}

export interface PressureLimits {
  /** Budget that was asked for: never exceeded. */
  asked: number
  /** Least that the store works with. */
  least: number
  /** Bytes of one expert's slot: budgets are whole numbers of them. */
  slot: number
  /** Bytes to be left free. */
  reserve: number
}

export interface PressureDecision {
  budget: number
  /**
   * memory: less than the reserve is free. stall: tasks wait for memory. calm: there has been room for a while. allocation: the system refused
   * memory for something else, and experts made room.
   */
  reason: 'memory' | 'stall' | 'calm' | 'allocation'
}

/** Percent of stalled time above which memory is taken away, and below which there is calm. */
const stallHigh = 10
const stallLow = 1
/** Between two reductions because of stalls: what the first did shows in an average of ten seconds only slowly. */
const stallPauseMs = 5000
/** Room and no stalls for so long before anything is given back, and then between one step and the next. */
const calmMs = 10_000
const growMs = 1000
/** What a step gives back at most, as a share of the reserve: a neighbour that grows meanwhile must find the rest of it. */
const growShare = 0.25
/** Free beyond the reserve that counts as room, as a share of the reserve: without it the budget would swing. */
const roomShare = 0.5

export class PressureController {
  readonly #limits: PressureLimits
  #budget: number
  #calmSince: number | undefined
  #stalledAt = Number.NEGATIVE_INFINITY

  constructor(limits: PressureLimits) {
    this.#limits = limits
    this.#budget = limits.asked
  }

  get budget(): number {
    return this.#budget
  }

  /** The budget that there really is, where what was decided could not be done or something else has changed it. */
  settle(budget: number): void {
    const { slot } = this.#limits
    if (Math.floor(this.#budget / slot) !== Math.floor(budget / slot)) this.#budget = budget
  }

  /** The next budget, or undefined where it stays. */
  observe(sample: MemorySample): PressureDecision | undefined {
    const { reserve, asked, slot } = this.#limits
    const { at, available, stall, resident } = sample
    const room = reserve * (1 + roomShare)
    if (available < room || stall > stallLow) this.#calmSince = undefined
    else this.#calmSince ??= at

    // A budget that is not used up holds no memory: what counts is what there is.
    const used = Math.min(this.#budget, resident)
    if (available < reserve) return this.#move(used - (reserve - available), 'memory')
    if (stall > stallHigh && at - this.#stalledAt >= stallPauseMs) {
      this.#stalledAt = at
      return this.#move(used * 0.875, 'stall')
    }
    if (this.#budget < asked && this.#calmSince !== undefined && at - this.#calmSince >= calmMs) {
      this.#calmSince = at - calmMs + growMs
      const step = Math.min((available - room) / 2, Math.max(slot, reserve * growShare))
      return this.#move(this.#budget + step, 'calm')
    }
    return undefined
  }

  #move(wanted: number, reason: PressureDecision['reason']): PressureDecision | undefined {
    const { asked, least, slot } = this.#limits
    // What is asked for is not rounded: it was good enough for the store.
    const whole = wanted >= asked ? asked : Math.floor(wanted / slot) * slot
    const budget = Math.min(asked, Math.max(least, whole))
    const shrinks = reason !== 'calm'
    if (shrinks ? budget >= this.#budget : budget <= this.#budget) return undefined
    this.#budget = budget
    return { budget, reason }
  }
}

/**
 * Rules of numbers, between bounds where there are some. Decimal text keeps its order when it is read as a double, and no text of at most
 * 15 digits but its own is read as the double of a bound, so bounds are compared digit by digit.
 */
import type { Range } from './char-ranges.js'
import type { GrammarBuilder } from './grammar.js'

export interface NumberRange {
  /** Without a fraction. */
  whole: boolean
  least?: number | undefined
  most?: number | undefined
  /** Bounds that are not in the range themselves. */
  above?: number | undefined
  below?: number | undefined
}

/** Digits of a number, and of a fraction where there is no bound. */
export const mostDigits = 15
const mostFraction = 16
const mostExponent = 2

/** A magnitude: the digits before and after the point, without zeros that say nothing. */
interface Bound {
  whole: string
  fraction: string
  /** It is not in the range itself. */
  open: boolean
}

const largest = 10 ** mostDigits - 1
/** No text of a number without bounds is read as more. */
const widest = 10 ** (mostDigits + 10 ** mostExponent - 1)

const digits = (first: number, last: number): Range[] => [[0x30 + first, 0x30 + last]]
const chars = (text: string): Range[] => [...text].map((char): Range => [char.charCodeAt(0), char.charCodeAt(0)])
const zeros = /^0*$/

/** The magnitude of a number in the fewest decimals that are read as it. */
function decimal(value: number, open: boolean): Bound {
  const [mantissa, exponent] = Math.abs(value).toExponential().split('e') as [string, string]
  const digits = mantissa.replace('.', '')
  const point = Number(exponent) + 1
  const padded = point <= 0 ? `${'0'.repeat(1 - point)}${digits}` : digits.padEnd(point, '0')
  const at = Math.max(point, 1)
  return { whole: padded.slice(0, at), fraction: padded.slice(at).replace(/0+$/, ''), open }
}

/** The tighter of a bound that is in the range and one that is not. */
function tighter(closed: number | undefined, open: number | undefined, sign: 1 | -1): { value: number; open: boolean } {
  const end = -sign * Number.POSITIVE_INFINITY
  const [own, other] = [(closed ?? end) * sign, (open ?? end) * sign]
  return other >= own ? { value: other * sign, open: open !== undefined } : { value: own * sign, open: false }
}

/** Where a range begins and ends. */
interface Ends {
  low: { value: number; open: boolean }
  high: { value: number; open: boolean }
}

function endsOf({ whole, least, most, above, below }: NumberRange): Ends {
  const low = tighter(least, above, 1)
  const high = tighter(most, below, -1)
  if (!whole) return { low, high }
  return {
    low: { value: low.open ? Math.floor(low.value) + 1 : Math.ceil(low.value), open: false },
    high: { value: high.open ? Math.ceil(high.value) - 1 : Math.floor(high.value), open: false }
  }
}

const isEmpty = ({ low, high }: Ends): boolean =>
  low.value > high.value || (low.value === high.value && (low.open || high.open))

/** What of it has few enough digits. */
const reached = ({ low, high }: Ends): Ends => ({
  low: low.value < -largest ? { value: -largest, open: false } : low,
  high: high.value > largest ? { value: largest, open: false } : high
})

type BoundKeyword = 'minimum' | 'maximum' | 'exclusiveMinimum' | 'exclusiveMaximum'

/** The keyword by which every number of a range has more digits than are written; undefined where the range has no numbers at all. */
export function farBound(range: NumberRange): BoundKeyword | undefined {
  const { least = Number.NEGATIVE_INFINITY, most = Number.POSITIVE_INFINITY, above = least, below = most } = range
  const ends = endsOf(range)
  if (isEmpty(ends) || !isEmpty(reached(ends))) return undefined
  if (ends.low.value > 0) return above > least ? 'exclusiveMinimum' : 'minimum'
  return below < most ? 'exclusiveMaximum' : 'maximum'
}

/** A number of the range; undefined where it has none. */
export function numberRule(b: GrammarBuilder, range: NumberRange): number | undefined {
  const { whole } = range
  const all = endsOf(range)
  const { low, high } = reached(all)
  if (isEmpty({ low, high })) return undefined
  const bounded = all.low.value >= -widest || all.high.value <= widest
  const rule = b.rule()
  // Near a bound that is not in the range no text may be read as the bound.
  const open = [low, high].flatMap(({ value, open }) => (open ? [decimal(value, open).whole.length] : []))
  const fraction = whole ? 0 : bounded ? mostDigits - Math.max(1, ...open) : mostFraction
  const writer = new NumberWriter(b, rule, fraction, !whole && !bounded)
  if (low.value < 0) {
    const minus = b.state(rule)
    b.char(b.start(rule), '-', minus)
    writer.magnitudes(
      minus,
      decimal(Math.min(high.value, 0), high.value <= 0 && high.open),
      decimal(low.value, low.open)
    )
  }
  if (high.value >= 0) {
    const from = decimal(Math.max(low.value, 0), low.value >= 0 && low.open)
    writer.magnitudes(b.start(rule), from, decimal(high.value, high.open))
  }
  return rule
}

/** Magnitudes of some lengths, with the bounds that they are compared with. */
interface Magnitudes {
  from: Bound
  to: Bound
  /** Digits before the point. */
  fewest: number
  most: number
}

/** Whether all digits up to a place are those of a bound. */
interface Tight {
  low: boolean
  high: boolean
}

const free: Tight = { low: false, high: false }

class NumberWriter {
  #states = new Map<string, number>()

  constructor(
    private readonly b: GrammarBuilder,
    private readonly rule: number,
    private readonly fraction: number,
    private readonly exponents: boolean
  ) {}

  /** What lies between two magnitudes, from the state `start` on. */
  magnitudes(start: number, from: Bound, to: Bound): void {
    const [first, last] = [from.whole.length, to.whole.length]
    const least = from.whole === '0' && from.fraction === '' && !from.open
    const most = to.whole === String(largest) && to.fraction === '' && !to.open
    const begin = (fewest: number, longest: number, tight: Tight): void => {
      if (fewest > longest) return
      this.#states = new Map()
      this.#whole(start, 0, { from, to, fewest, most: longest }, tight)
    }
    if (first === last && !(least && most)) {
      begin(first, last, { low: !least, high: !most })
      return
    }
    if (!least) begin(first, first, { low: true, high: false })
    begin(least ? first : first + 1, most ? last : last - 1, free)
    if (!most) begin(last, last, { low: false, high: true })
  }

  /** A state for what is left to write. */
  #state(part: string, at: number, { low, high }: Tight, fill: (state: number) => void): number {
    const key = `${part} ${at} ${low} ${high}`
    let state = this.#states.get(key)
    if (state === undefined) {
      state = this.b.state(this.rule)
      this.#states.set(key, state)
      fill(state)
    }
    return state
  }

  /** Edges of one digit, between those of the bounds where all before it were. */
  #digits(
    from: number,
    lowest: number,
    highest: number,
    { low, high }: Tight,
    next: (tight: Tight, digit: number) => number
  ) {
    const runs: { to: number; first: number; last: number }[] = []
    for (let digit = lowest; digit <= highest; digit++) {
      const to = next({ low: low && digit === lowest, high: high && digit === highest }, digit)
      const run = runs.at(-1)
      if (run?.to === to) run.last = digit
      else runs.push({ to, first: digit, last: digit })
    }
    for (const { to, first, last } of runs) this.b.edge(from, digits(first, last), to)
  }

  #whole(from: number, at: number, all: Magnitudes, tight: Tight): void {
    // Only a lone zero begins a number.
    const least = at === 0 && all.fewest > 1 ? 1 : 0
    const lowest = tight.low ? Number(all.from.whole[at]) : least
    const highest = tight.high ? Number(all.to.whole[at]) : 9
    this.#digits(from, lowest, highest, tight, (next, digit) => {
      const last = at + 1 === all.most || (at === 0 && digit === 0)
      return this.#state(last ? 'last' : 'whole', at + 1, next, (state) => {
        if (at + 1 >= all.fewest) this.#afterWhole(state, all, next)
        if (!last) this.#whole(state, at + 1, all, next)
      })
    })
  }

  #afterWhole(state: number, all: Magnitudes, tight: Tight): void {
    if (mayEnd(0, all, tight)) this.b.accept(state)
    if (this.fraction > 0) {
      const point = this.#state('point', 0, tight, (point) => this.#fraction(point, 0, all, tight))
      this.b.char(state, '.', point)
    }
    if (this.exponents) this.#exponent(state)
  }

  #fraction(from: number, at: number, all: Magnitudes, tight: Tight): void {
    const lowest = tight.low ? Number(all.from.fraction[at] ?? 0) : 0
    const highest = tight.high ? Number(all.to.fraction[at] ?? 0) : 9
    this.#digits(from, lowest, highest, tight, (next) =>
      this.#state('fraction', at + 1, next, (state) => {
        if (mayEnd(at + 1, all, next)) this.b.accept(state)
        if (at + 1 < this.fraction) this.#fraction(state, at + 1, all, next)
        if (this.exponents) this.#exponent(state)
      })
    )
  }

  #exponent(from: number): void {
    const { b } = this
    const letter = this.#state('exponent', 0, free, (letter) => {
      const sign = b.state(this.rule)
      b.edge(letter, chars('+-'), sign)
      let before = [letter, sign]
      for (let i = 0; i < mostExponent; i++) {
        const to = b.state(this.rule)
        for (const state of before) b.edge(state, digits(0, 9), to)
        b.accept(to)
        before = [to]
      }
    })
    b.edge(from, chars('eE'), letter)
  }
}

/** Whether a number may end after so many digits of its fraction. */
function mayEnd(at: number, { from, to }: Magnitudes, { low, high }: Tight): boolean {
  const isLeast = zeros.test(from.fraction.slice(at))
  const isMost = zeros.test(to.fraction.slice(at))
  return (!low || (isLeast && !from.open)) && (!high || !isMost || !to.open)
}

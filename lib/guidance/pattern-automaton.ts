/** The texts in which a pattern is found, as an automaton over characters. */
import type { CharAutomaton } from './char-automaton.js'
import type { Range, Ranges } from './char-ranges.js'
import { common, everyChar } from './char-ranges.js'
import type { Pattern } from './pattern.js'
import { PatternRefused } from './pattern.js'

const mostParts = 10_000
/** Ranges of characters, over all parts. */
const mostRanges = 100_000
const mostStates = 2000
/** Edges looked at while states are joined. */
const mostWork = 2_000_000

/** A state of the automaton that may be in several states at once. */
interface Part {
  /** Without a character; `start` only before the first one, `end` only where none follows. */
  skips: { to: number; only?: 'start' | 'end' }[]
  ranges?: Ranges
  to: number
}

/** Throws PatternRefused where it gets too large. */
export function patternAutomaton(pattern: Pattern): CharAutomaton {
  const parts = new Parts()
  // What is before the pattern, and after it, may be anything.
  const before = parts.add()
  const after = parts.add()
  parts.chars(before, everyChar, before)
  parts.chars(after, everyChar, after)
  const start = parts.add()
  parts.skip(before, start)
  parts.write(pattern, start, after)
  return joinedStates(parts.list, before, after)
}

class Parts {
  readonly list: Part[] = []
  #ranges = 0

  add(): number {
    if (this.list.length >= mostParts) throw tooLarge()
    return this.list.push({ skips: [], to: 0 }) - 1
  }

  skip(from: number, to: number, only?: 'start' | 'end'): void {
    this.list[from]!.skips.push(only ? { to, only } : { to })
  }

  chars(from: number, ranges: Ranges, to: number): void {
    this.#ranges += ranges.length
    if (this.#ranges > mostRanges) throw tooLarge()
    Object.assign(this.list[from]!, { ranges: common(ranges, everyChar), to })
  }

  write(pattern: Pattern, from: number, to: number): void {
    if (pattern.kind === 'chars') {
      const own = this.add()
      this.skip(from, own)
      this.chars(own, pattern.ranges, to)
    } else if (pattern.kind === 'start' || pattern.kind === 'end') this.skip(from, to, pattern.kind)
    else if (pattern.kind === 'choice') for (const part of pattern.parts) this.write(part, from, to)
    else if (pattern.kind === 'sequence') {
      let at = from
      for (const part of pattern.parts) at = this.#next(part, at)
      this.skip(at, to)
    } else this.#repeat(pattern, from, to)
  }

  #next(pattern: Pattern, from: number): number {
    const to = this.add()
    this.write(pattern, from, to)
    return to
  }

  #repeat({ part, least, most }: Extract<Pattern, { kind: 'repeat' }>, from: number, to: number): void {
    let at = from
    for (let i = 0; i < least; i++) at = this.#next(part, at)
    if (most === Number.POSITIVE_INFINITY) {
      const loop = this.add()
      this.skip(at, loop)
      this.skip(this.#next(part, loop), loop)
      at = loop
    } else {
      for (let i = least; i < most; i++) {
        this.skip(at, to)
        at = this.#next(part, at)
      }
    }
    this.skip(at, to)
  }
}

/** Each state of the result stands for all parts that the same text can lead to. */
function joinedStates(parts: readonly Part[], first: number, last: number): CharAutomaton {
  const numbers = new Map<string, number>()
  const reached: number[][] = []
  let work = 0
  const spend = (steps: number): void => {
    work += steps
    if (work > mostWork) throw tooLarge()
  }
  const closed = (from: readonly number[], allowed?: 'start' | 'end'): number[] => {
    const found = new Set(from)
    for (const part of found) {
      const { skips } = parts[part]!
      spend(1 + skips.length)
      for (const { to, only } of skips) if (only === undefined || only === allowed) found.add(to)
    }
    return [...found].sort((a, b) => a - b)
  }
  const number = (all: number[]): number => {
    // Once it was found, nothing that follows matters.
    const set = all.includes(last) ? [last] : all
    const key = set.join()
    let known = numbers.get(key)
    if (known === undefined) {
      if (reached.length >= mostStates) throw tooLarge()
      known = reached.push(set) - 1
      numbers.set(key, known)
    }
    return known
  }
  number(closed([first], 'start'))
  const states: CharAutomaton = []
  for (const [i, set] of reached.entries()) {
    // Before any character the end may be the start as well.
    const ends = closed(i === 0 ? closed(set, 'end').flatMap((part) => closed([part], 'start')) : set, 'end')
    states.push({ accepting: ends.includes(last), edges: [] })
    const edges = set.flatMap((part) => (parts[part]!.ranges ?? []).map((range) => ({ range, to: parts[part]!.to })))
    spend(edges.length)
    for (const [range, targets] of split(edges, spend)) {
      states[i]!.edges.push({ range, to: number(closed(targets)) })
    }
  }
  return states
}

/** Ranges that do not overlap, each with all that it leads to. */
function split(edges: readonly { range: Range; to: number }[], spend: (steps: number) => void): [Range, number[]][] {
  const events = edges.flatMap(({ range: [from, to], to: target }) => [
    { at: from, target, enters: 1 },
    { at: to + 1, target, enters: -1 }
  ])
  events.sort((a, b) => a.at - b.at)
  const inside = new Map<number, number>()
  const result: [Range, number[]][] = []
  let from = 0
  for (const { at, target, enters } of events) {
    const targets = [...inside.keys()]
    spend(targets.length)
    if (at > from && targets.length > 0) {
      const before = result.at(-1)
      const same = before && before[0][1] === from - 1 && before[1].join() === targets.sort((a, b) => a - b).join()
      if (same) result[result.length - 1] = [[before[0][0], at - 1], before[1]]
      else result.push([[from, at - 1], targets.sort((a, b) => a - b)])
    }
    from = at
    const count = (inside.get(target) ?? 0) + enters
    if (count === 0) inside.delete(target)
    else inside.set(target, count)
  }
  return result
}

const tooLarge = () => new PatternRefused('too_large', 'an automaton of too many states')

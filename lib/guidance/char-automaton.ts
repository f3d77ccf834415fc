/** Automata over characters: states by number, the first one is where it begins. */
import type { Range } from './char-ranges.js'
import { complement } from './char-ranges.js'

export interface CharState {
  /** Of ranges that do not touch. */
  edges: { range: Range; to: number }[]
  accepting: boolean
}

export type CharAutomaton = CharState[]

/** Every text but those given. */
export function allBut(texts: readonly string[]): CharAutomaton {
  const states: CharAutomaton = []
  const children: Map<number, number>[] = []
  const state = (): number => {
    children.push(new Map())
    return states.push({ edges: [], accepting: true }) - 1
  }
  const first = state()
  const rest = state()
  for (const text of texts) {
    let at = first
    for (const char of text) {
      const code = char.codePointAt(0)!
      const next = children[at]!.get(code) ?? state()
      children[at]!.set(code, next)
      at = next
    }
    states[at]!.accepting = false
  }
  for (const [i, own] of children.entries()) {
    const codes = [...own.keys()].map((code): Range => [code, code])
    for (const [code, to] of own) states[i]!.edges.push({ range: [code, code], to })
    for (const range of complement(codes)) states[i]!.edges.push({ range, to: rest })
  }
  return states
}

/**
 * The texts of an automaton that have so many characters, without the states from which none can end any more; undefined where there is
 * no such text.
 */
export function ofLength(automaton: CharAutomaton, least: number, most: number): CharAutomaton | undefined {
  // Above `least`, or above `most`, the count does not matter any more.
  const highest = most < Number.POSITIVE_INFINITY ? most : least
  const numbers = new Map<number, number>()
  const reached: { state: number; count: number }[] = []
  const number = (state: number, count: number): number => {
    const key = state * (highest + 1) + count
    let known = numbers.get(key)
    if (known === undefined) {
      known = reached.push({ state, count }) - 1
      numbers.set(key, known)
    }
    return known
  }
  number(0, 0)
  const states: CharAutomaton = []
  for (const { state, count } of reached) {
    const { edges, accepting } = automaton[state]!
    const next = Math.min(count + 1, highest)
    const ends = count === most
    states.push({
      accepting: accepting && count >= least,
      edges: ends ? [] : edges.map(({ range, to }) => ({ range, to: number(to, next) }))
    })
  }
  return withoutDeadEnds(states)
}

function withoutDeadEnds(states: CharAutomaton): CharAutomaton | undefined {
  const before = states.map((): number[] => [])
  for (const [from, { edges }] of states.entries()) for (const { to } of edges) before[to]!.push(from)
  const alive = states.map(({ accepting }) => accepting)
  const found = [...alive.keys()].filter((state) => alive[state])
  for (const state of found) {
    for (const from of before[state]!) {
      if (alive[from]) continue
      alive[from] = true
      found.push(from)
    }
  }
  if (!alive[0]) return undefined
  const kept = [...states.keys()].filter((state) => alive[state])
  const numbers = new Map(kept.map((state, i) => [state, i]))
  return kept.map((state) => ({
    accepting: states[state]!.accepting,
    edges: states[state]!.edges.flatMap(({ range, to }) => (alive[to] ? [{ range, to: numbers.get(to)! }] : []))
  }))
}

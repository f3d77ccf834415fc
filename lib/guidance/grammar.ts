/**
 * What a text may be, as rules over bytes: each rule is a small automaton whose edges take a byte or run another rule. Rules that run
 * each other in a circle make nested text; how deep it may go, and what of a rule can still end, is known before anything is generated.
 */
import type { Range } from './char-ranges.js'

/** Objects and arrays inside of each other, at most. */
export const mostDepth = 64
const mostStates = 100_000

/** Thrown where a grammar gets too large; schema.ts makes the typed error of it. */
export class GrammarTooLarge {
  constructor(readonly reason: string) {}
}

interface Guard {
  to: number
  /** One more of what the rule counts; not when it has counted its most. */
  counts: boolean
  /** Only when the rule has counted its least. */
  enough: boolean
}

export interface ByteEdge extends Guard {
  /** [256]: 1 = the byte is taken. */
  bytes: Uint8Array
}

export interface Call extends Guard {
  rule: number
}

export interface GrammarState {
  rule: number
  edges: ByteEdge[]
  calls: Call[]
  /** States that it stands for as well. */
  skips: number[]
  accepting: boolean
  /** Depth that is needed at least to come from here to an accepting state; Infinity: there is no way. */
  need: number
}

export interface Rule {
  start: number
  /** An object or an array: takes one of the depth. */
  container: boolean
  /** What it counts: characters, items. */
  least: number
  most: number
  /** Depth that it can take at most, itself included; mostDepth where there is no end. */
  height: number
}

export interface Grammar {
  rules: readonly Rule[]
  states: readonly GrammarState[]
  root: number
  /** [256]: bytes that no edge tells apart have the same class. */
  classOf: Uint8Array
  /** A byte of each class. */
  byteOf: readonly number[]
}

/** A call, and the state that it is made from. */
interface CallSite {
  from: number
  rule: number
  to: number
}

type GuardOptions = Partial<Pick<Guard, 'counts' | 'enough'>>

const encoder = new TextEncoder()
const none: never[] = []
const added = <T>(list: T[], item: T): T[] => {
  if (list === none) return [item]
  list.push(item)
  return list
}

export class GrammarBuilder {
  readonly #rules: Rule[] = []
  readonly #states: GrammarState[] = []
  /** By the ends of one range, or by the text of several. */
  readonly #byteSets = new Map<number | string, Uint8Array>()

  /** A rule with its first state. */
  rule({ container = false, least = 0, most = Number.POSITIVE_INFINITY } = {}): number {
    const rule = this.#rules.length
    this.#rules.push({ start: 0, container, least, most, height: 0 })
    this.#rules[rule]!.start = this.state(rule)
    return rule
  }

  start(rule: number): number {
    return this.#rules[rule]!.start
  }

  ruleOf(state: number): number {
    return this.#states[state]!.rule
  }

  /** GrammarTooLarge where there is no room for so many states more. */
  checkRoom(states: number): void {
    if (this.#states.length + states > mostStates) throw new GrammarTooLarge(`more than ${mostStates} states`)
  }

  state(rule: number): number {
    this.checkRoom(1)
    // Most states have one edge and nothing else: lists are made where they are needed.
    this.#states.push({ rule, edges: none, calls: none, skips: none, accepting: false, need: Number.POSITIVE_INFINITY })
    return this.#states.length - 1
  }

  edge(
    from: number,
    ranges: readonly Range[],
    to: number,
    { counts = false, enough = false }: GuardOptions = {}
  ): void {
    const state = this.#states[from]!
    state.edges = added(state.edges, { bytes: this.#byteSet(ranges), to, counts, enough })
  }

  call(from: number, rule: number, to: number, { counts = false, enough = false }: GuardOptions = {}): void {
    const state = this.#states[from]!
    state.calls = added(state.calls, { rule, to, counts, enough })
  }

  skip(from: number, to: number): void {
    const state = this.#states[from]!
    state.skips = added(state.skips, to)
  }

  accept(state: number): void {
    this.#states[state]!.accepting = true
  }

  /** One character of the ASCII range. */
  char(from: number, char: string, to: number, options?: GuardOptions): void {
    const code = char.charCodeAt(0)
    this.edge(from, [[code, code]], to, options)
  }

  /** A text, to `to` or to a state of its own. */
  text(from: number, text: string, to?: number): number {
    const rule = this.ruleOf(from)
    const bytes = encoder.encode(text)
    let at = from
    for (const [i, byte] of bytes.entries()) {
      const next = i === bytes.length - 1 && to !== undefined ? to : this.state(rule)
      this.edge(at, [[byte, byte]], next)
      at = next
    }
    return at
  }

  /** Runs a rule, to a state of its own. */
  run(from: number, rule: number, options?: GuardOptions): number {
    const next = this.state(this.ruleOf(from))
    this.call(from, rule, next, options)
    return next
  }

  /** A rule that is one of several texts. */
  oneOf(texts: readonly string[]): number {
    const rule = this.rule()
    const children = new Map<number, number>()
    for (const text of texts) {
      let at = this.start(rule)
      for (const byte of encoder.encode(text)) {
        let next = children.get(at * 256 + byte)
        if (next === undefined) {
          next = this.state(rule)
          children.set(at * 256 + byte, next)
          this.edge(at, [[byte, byte]], next)
        }
        at = next
      }
      this.accept(at)
    }
    return rule
  }

  /** The grammar of texts that `root` accepts. */
  finish(root: number): Grammar {
    this.#findNeeds()
    this.#findHeights()
    return { rules: this.#rules, states: this.#states, root, ...this.#byteClasses() }
  }

  /** A rule that runs itself before it has taken a byte, where there is one. */
  circle(): number | undefined {
    const first = this.#rules.map(({ start }) => this.#states[start]!.calls.map(({ rule }) => rule))
    const callers = this.#rules.map((): number[] => [])
    const left = first.map((calls) => calls.length)
    for (const [rule, calls] of first.entries()) for (const called of calls) callers[called]!.push(rule)
    const free = left.flatMap((count, rule) => (count === 0 ? [rule] : []))
    for (const rule of free) for (const caller of callers[rule]!) if (--left[caller]! === 0) free.push(caller)
    // What is left runs itself, or what does.
    const isLeft = (rule: number): boolean => left[rule]! > 0
    let at = first.findIndex((_, rule) => isLeft(rule))
    if (at < 0) return undefined
    const seen = new Set<number>()
    for (; !seen.has(at); at = first[at]!.find(isLeft)!) seen.add(at)
    return at
  }

  #byteSet(ranges: readonly Range[]): Uint8Array {
    const [[first, last] = [0, 0]] = ranges
    const key = ranges.length === 1 ? first * 256 + last : ranges.join(' ')
    let bytes = this.#byteSets.get(key)
    if (!bytes) {
      bytes = new Uint8Array(256)
      for (const [from, to] of ranges) bytes.fill(1, from, to + 1)
      this.#byteSets.set(key, bytes)
    }
    return bytes
  }

  /** The least depth over all ways to an accepting state, of a way the most that one of its rules needs. */
  #findNeeds(): void {
    const states = this.#states
    const before = states.map((): number[] => none)
    const returns = states.map((): CallSite[] => none)
    const callers = this.#rules.map((): CallSite[] => none)
    const changed: number[] = []
    const lower = (state: number, need: number): void => {
      if (need >= states[state]!.need) return
      states[state]!.need = need
      changed.push(state)
    }
    for (const [from, { edges, calls, skips, accepting }] of states.entries()) {
      for (const { to } of edges) before[to] = added(before[to]!, from)
      for (const to of skips) before[to] = added(before[to]!, from)
      for (const { rule, to } of calls) {
        const site = { from, rule, to }
        returns[to] = added(returns[to]!, site)
        callers[rule] = added(callers[rule]!, site)
      }
      if (accepting) lower(from, 0)
    }
    // Of each state only the ways over the one that changed are looked at: it may have very many.
    for (const state of changed) {
      const { rule, need } = states[state]!
      for (const from of before[state]!) lower(from, need)
      const above = this.#rules[rule]!.start === state ? callers[rule]! : none
      for (const list of [returns[state]!, above]) {
        for (const { from, rule, to } of list) {
          lower(from, Math.max(states[to]!.need, depthNeeded(this.#rules[rule]!, states)))
        }
      }
    }
  }

  #findHeights(): void {
    const callers = this.#rules.map((): Set<number> => new Set())
    for (const state of this.#states) for (const { rule } of state.calls) callers[rule]!.add(state.rule)
    const raised: number[] = []
    const raise = (rule: Rule, number: number, inner: number): void => {
      const height = Math.min(inner + (rule.container ? 1 : 0), mostDepth)
      if (height <= rule.height) return
      rule.height = height
      raised.push(number)
    }
    for (const [number, rule] of this.#rules.entries()) raise(rule, number, 0)
    for (const number of raised) {
      for (const caller of callers[number]!) raise(this.#rules[caller]!, caller, this.#rules[number]!.height)
    }
  }

  #byteClasses(): Pick<Grammar, 'classOf' | 'byteOf'> {
    let classOf = new Uint8Array(256)
    for (const bytes of this.#byteSets.values()) {
      const known = new Map<number, number>()
      classOf = classOf.map((own, byte) => {
        const key = own * 2 + bytes[byte]!
        if (!known.has(key)) known.set(key, known.size)
        return known.get(key)!
      })
    }
    const byteOf: number[] = []
    classOf.forEach((own, byte) => {
      byteOf[own] = byte
    })
    return { classOf, byteOf }
  }
}

/** The least depth that a run of a rule takes. */
export const depthNeeded = ({ start, container }: Rule, states: readonly GrammarState[]): number =>
  states[start]!.need + (container ? 1 : 0)

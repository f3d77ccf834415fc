/** Rules of JSON itself: white space, strings, numbers, and values of any form. Each is made once for a grammar. */
import type { CharAutomaton } from './char-automaton.js'
import type { Range } from './char-ranges.js'
import { common, everyChar, utf8Sequences } from './char-ranges.js'
import type { GrammarBuilder } from './grammar.js'
import type { NumberRange } from './number-range.js'
import { numberRule } from './number-range.js'

/** Blanks or tabs after a line's end: a small model writes as many as it may. */
const mostIndent = 16

/** Characters that a string holds as they are: all but control characters, the quote and the backslash. */
const plainChars = common(everyChar, [
  [0x20, 0x21],
  [0x23, 0x5b],
  [0x5d, 0x10ffff]
])

const digits: Range[] = [[0x30, 0x39]]
const hexadecimal: Range[] = [...digits, [0x41, 0x46], [0x61, 0x66]]
/** The first digit of an escape that is no surrogate's, and the second one of those that begin with D. */
const belowD: Range[] = [...digits, [0x41, 0x43], [0x45, 0x46], [0x61, 0x63], [0x65, 0x66]]
const letterD: Range[] = [
  [0x44, 0x44],
  [0x64, 0x64]
]
const below8: Range[] = [[0x30, 0x37]]
const highSurrogate: Range[] = [
  [0x38, 0x39],
  [0x41, 0x42],
  [0x61, 0x62]
]
const lowSurrogate: Range[] = [
  [0x43, 0x46],
  [0x63, 0x66]
]
const shortEscapes: Range[] = [...'"\\/bfnrt'].map((char): Range => [char.charCodeAt(0), char.charCodeAt(0)])

export class JsonRules {
  readonly #builder: GrammarBuilder
  readonly #made = new Map<string, number>()

  constructor(builder: GrammarBuilder) {
    this.#builder = builder
  }

  /** Nothing, one blank, or a line's end and an indent: bounded, so that no model writes blanks for ever. */
  space(): number {
    return this.#once('space', () => {
      const b = this.#builder
      const rule = b.rule()
      const end = b.state(rule)
      b.accept(b.start(rule))
      b.accept(end)
      b.char(b.start(rule), ' ', end)
      for (const char of ' \t') {
        let at = b.state(rule)
        b.char(b.start(rule), '\n', at)
        b.accept(at)
        for (let i = 0; i < mostIndent; i++) {
          const next = b.state(rule)
          b.char(at, char, next)
          b.accept(next)
          at = next
        }
      }
      return rule
    })
  }

  /** A string of so many characters. */
  string(least = 0, most = Number.POSITIVE_INFINITY): number {
    return this.#once(`string ${least} ${most}`, () => {
      const b = this.#builder
      const rule = b.rule({ least, most })
      const [body, end] = [b.state(rule), b.state(rule)]
      const counts = least > 0 || most < Number.POSITIVE_INFINITY
      b.char(b.start(rule), '"', body)
      b.char(body, '"', end, { enough: least > 0 })
      this.#plain(body, body, plainChars, counts)
      this.#escapes(body, body, counts)
      b.accept(end)
      return rule
    })
  }

  /** A string whose characters an automaton accepts; `escapes: false` for one of plain characters only. */
  stringOf(automaton: CharAutomaton, escapes: boolean): number {
    const b = this.#builder
    const rule = b.rule()
    const states = automaton.map(() => b.state(rule))
    const end = b.state(rule)
    b.accept(end)
    b.char(b.start(rule), '"', states[0]!)
    for (const [i, { edges, accepting }] of automaton.entries()) {
      const from = states[i]!
      if (accepting) b.char(from, '"', end)
      for (const { range, to } of edges) {
        this.#plain(from, states[to]!, common([range], plainChars), false)
        if (escapes) this.#escaped(from, states[to]!, range)
      }
    }
    return rule
  }

  /** Undefined where the range is empty. */
  number(range: NumberRange): number | undefined {
    const key = `number ${JSON.stringify(range)}`
    const rule = this.#made.get(key) ?? numberRule(this.#builder, range)
    if (rule !== undefined) this.#made.set(key, rule)
    return rule
  }

  /** One of several texts. */
  texts(texts: readonly string[]): number {
    return this.#once(`texts ${JSON.stringify(texts)}`, () => this.#builder.oneOf(texts))
  }

  /** A value of any form. */
  any(): number {
    return this.#once('any', () => {
      const b = this.#builder
      const rule = b.rule()
      // Known before it is whole: it holds itself.
      this.#made.set('any', rule)
      const end = b.state(rule)
      b.accept(end)
      const values = [this.anyObject(), this.anyArray(), this.string(), this.number({ whole: false })!]
      for (const value of [...values, this.texts(['true', 'false', 'null'])]) b.call(b.start(rule), value, end)
      return rule
    })
  }

  anyObject(): number {
    return this.#once('object', () => {
      const rule = this.#builder.rule({ container: true })
      this.#made.set('object', rule)
      this.object(rule, [], { key: this.string(), value: this.any() })
      return rule
    })
  }

  anyArray(): number {
    return this.#once('array', () => {
      const rule = this.#builder.rule({ container: true })
      this.#made.set('array', rule)
      this.array(rule, [], this.any(), 0)
      return rule
    })
  }

  /** What an object's rule holds: its properties in their order, then others where there may be some. */
  object(
    rule: number,
    properties: readonly { name: string; value: number; required: boolean }[],
    others?: { key: number; value: number }
  ): void {
    const b = this.#builder
    const end = b.state(rule)
    b.accept(end)
    const open = b.state(rule)
    b.char(b.start(rule), '{', open)
    const first = b.run(open, this.space())
    // keys[i]: the next one is property i or a later one; rests[i]: property i - 1 has been the last.
    const keys = [...properties, undefined].map(() => b.state(rule))
    const rests = keys.map(() => b.state(rule))
    const last = properties.length
    b.skip(first, keys[0]!)
    for (const [i, { name, value, required }] of properties.entries()) {
      b.call(b.run(b.text(keys[i]!, `${JSON.stringify(name)}:`), this.space()), value, rests[i + 1]!)
      if (!required) b.skip(keys[i]!, keys[i + 1]!)
    }
    if (others) {
      const named = b.run(keys[last]!, others.key)
      const colon = b.state(rule)
      b.char(named, ':', colon)
      b.call(b.run(colon, this.space()), others.value, rests[last]!)
    }
    let done = true
    for (let i = last; i >= 0; i--) {
      done &&= properties[i]?.required !== true
      if (i === 0 && done) b.char(first, '}', end)
      if (i === 0 && !(others && last === 0)) continue
      if (done) b.char(b.run(rests[i]!, this.space()), '}', end)
      const comma = b.state(rule)
      b.char(rests[i]!, ',', comma)
      b.call(comma, this.space(), keys[i]!)
    }
  }

  /** What an array's rule holds: its first items, then others. The rule counts those: `least` and `most` of the rule are theirs. */
  array(rule: number, first: readonly number[], others: number | undefined, least: number): void {
    const b = this.#builder
    const end = b.state(rule)
    b.accept(end)
    let at = b.state(rule)
    b.char(b.start(rule), '[', at)
    at = b.run(at, this.space())
    if (least === 0) b.char(at, ']', end)
    for (const [i, item] of first.entries()) {
      const after = b.run(at, item)
      if (i + 1 >= least) b.char(b.run(after, this.space()), ']', end)
      if (i + 1 === first.length && others === undefined) return
      const comma = b.state(rule)
      b.char(after, ',', comma, { counts: i + 1 === first.length })
      at = b.run(comma, this.space())
    }
    if (others === undefined) return
    const after = b.state(rule)
    b.call(at, others, after, { counts: first.length === 0 })
    b.char(b.run(after, this.space(), { enough: true }), ']', end)
    const comma = b.state(rule)
    b.char(after, ',', comma, { counts: true })
    b.call(b.run(comma, this.space()), others, after)
  }

  #once(key: string, make: () => number): number {
    const rule = this.#made.get(key) ?? make()
    this.#made.set(key, rule)
    return rule
  }

  /** One character as it is. */
  #plain(from: number, to: number, ranges: readonly Range[], counts: boolean): void {
    const b = this.#builder
    const rule = b.ruleOf(from)
    // Sequences that end alike share what follows their first byte.
    const tails = new Map<string, number>()
    const tail = (bytes: readonly Range[]): number => {
      if (bytes.length === 0) return to
      const key = bytes.join(' ')
      let state = tails.get(key)
      if (state === undefined) {
        state = b.state(rule)
        tails.set(key, state)
        b.edge(state, [bytes[0]!], tail(bytes.slice(1)))
      }
      return state
    }
    const firsts = new Map<number, Range[]>()
    for (const [first, ...rest] of ranges.flatMap(utf8Sequences)) {
      const state = tail(rest)
      firsts.set(state, [...(firsts.get(state) ?? []), first!])
    }
    for (const [state, bytes] of firsts) b.edge(from, bytes, state, { counts })
  }

  /** One character as an escape: of two letters, or of four hexadecimal digits, a surrogate with its other half. */
  #escapes(from: number, to: number, counts: boolean): void {
    const b = this.#builder
    const rule = b.ruleOf(from)
    const chain = (at: number, ...sets: Range[][]): number =>
      sets.reduce((state, bytes) => {
        const next = b.state(rule)
        b.edge(state, bytes, next)
        return next
      }, at)
    const backslash = b.state(rule)
    b.char(from, '\\', backslash, { counts })
    b.edge(backslash, shortEscapes, to)
    const code = b.state(rule)
    b.char(backslash, 'u', code)
    const lastTwo = b.state(rule)
    b.edge(chain(lastTwo, hexadecimal), hexadecimal, to)
    b.edge(chain(code, belowD), hexadecimal, lastTwo)
    const afterD = chain(code, letterD)
    b.edge(afterD, below8, lastTwo)
    const second = b.text(chain(afterD, highSurrogate, hexadecimal, hexadecimal), '\\u')
    b.edge(chain(second, letterD), lowSurrogate, lastTwo)
  }

  /** The characters of a range that a string cannot hold as they are, each in one form. */
  #escaped(from: number, to: number, [first, last]: Range): void {
    const b = this.#builder
    for (const code of [...Array(0x20).keys(), 0x22, 0x5c]) {
      if (code < first || code > last) continue
      b.text(from, JSON.stringify(String.fromCharCode(code)).slice(1, -1), to)
    }
  }
}

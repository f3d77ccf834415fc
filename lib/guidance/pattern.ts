/** Reads regular expressions of JSON schemas (ECMA-262, by characters): those that an automaton can follow. */
import type { Range, Ranges } from './char-ranges.js'
import { complement, joined } from './char-ranges.js'

export type Pattern =
  | { kind: 'chars'; ranges: Ranges }
  | { kind: 'sequence'; parts: Pattern[] }
  | { kind: 'choice'; parts: Pattern[] }
  | { kind: 'repeat'; part: Pattern; least: number; most: number }
  | { kind: 'start' }
  | { kind: 'end' }

/** Thrown for a pattern that cannot be followed. */
export class PatternRefused {
  constructor(
    readonly reason: 'invalid' | 'unsupported' | 'too_large',
    readonly message: string
  ) {}
}

const mostNesting = 64
const mostRepeats = 1000
/** Digits of a bound that is read: more of them would be read as infinite. */
const mostDigits = 9

const one = (char: string): Range => [char.codePointAt(0)!, char.codePointAt(0)!]
const digits: Ranges = [[0x30, 0x39]]
const words: Ranges = [[0x30, 0x39], [0x41, 0x5a], one('_'), [0x61, 0x7a]]
const lineEnds: Ranges = [one('\n'), one('\r'), [0x2028, 0x2029]]
const spaces: Ranges = joined([
  [0x09, 0x0d],
  one(' '),
  [0xa0, 0xa0],
  [0x1680, 0x1680],
  [0x2000, 0x200a],
  [0x2028, 0x2029],
  [0x202f, 0x202f],
  [0x205f, 0x205f],
  [0x3000, 0x3000],
  [0xfeff, 0xfeff]
])
const sets: Readonly<Record<string, Ranges>> = {
  d: digits,
  D: complement(digits),
  w: words,
  W: complement(words),
  s: spaces,
  S: complement(spaces)
}
const controls: Readonly<Record<string, string>> = { t: '\t', n: '\n', v: '\v', f: '\f', r: '\r', '0': '\0' }

/** Throws PatternRefused. */
export const readPattern = (source: string): Pattern => new Reader(source).read()

class Reader {
  readonly #chars: string[]
  #at = 0
  #nesting = 0

  constructor(source: string) {
    this.#chars = [...source]
  }

  read(): Pattern {
    const pattern = this.#choice()
    if (this.#at < this.#chars.length) throw invalid('a ) without its (')
    return pattern
  }

  get #next(): string | undefined {
    return this.#chars[this.#at]
  }

  #take(char: string): boolean {
    if (this.#next !== char) return false
    this.#at++
    return true
  }

  #choice(): Pattern {
    const parts = [this.#sequence()]
    while (this.#take('|')) parts.push(this.#sequence())
    return parts.length === 1 ? parts[0]! : { kind: 'choice', parts }
  }

  #sequence(): Pattern {
    const parts: Pattern[] = []
    while (this.#next !== undefined && this.#next !== '|' && this.#next !== ')') parts.push(this.#repeated())
    return { kind: 'sequence', parts }
  }

  #repeated(): Pattern {
    const part = this.#atom()
    const bounds = this.#quantifier()
    if (!bounds) return part
    if (part.kind === 'start' || part.kind === 'end') throw invalid('an assertion that is repeated')
    const [least, most] = bounds
    if (most < least) throw invalid(`{${least},${most}}`)
    if (least > mostRepeats || (most > mostRepeats && most < Number.POSITIVE_INFINITY)) throw tooOften()
    // A lazy one finds the same texts.
    this.#take('?')
    if (this.#quantifier()) throw invalid('two quantifiers')
    return { kind: 'repeat', part, least, most }
  }

  #quantifier(): [number, number] | undefined {
    if (this.#take('*')) return [0, Number.POSITIVE_INFINITY]
    if (this.#take('+')) return [1, Number.POSITIVE_INFINITY]
    if (this.#take('?')) return [0, 1]
    if (this.#next !== '{') return undefined
    const end = this.#chars.indexOf('}', this.#at)
    const bounds = this.#chars.slice(this.#at, end + 1).join('')
    const [, least, comma, most] = /^\{(\d+)(?:(,)(\d*))?\}$/.exec(bounds) ?? []
    if (least === undefined) throw invalid('a { that is no quantifier')
    if (least.length > mostDigits || (most && most.length > mostDigits)) throw tooOften()
    this.#at = end + 1
    return [Number(least), most ? Number(most) : comma ? Number.POSITIVE_INFINITY : Number(least)]
  }

  #atom(): Pattern {
    const char = this.#chars[this.#at++]!
    if (char === '^') return { kind: 'start' }
    if (char === '$') return { kind: 'end' }
    if (char === '(') return this.#group()
    if (char === '.') return { kind: 'chars', ranges: complement(lineEnds) }
    if (char === '[') return { kind: 'chars', ranges: this.#class() }
    if (char === '\\') return { kind: 'chars', ranges: this.#escape(false) }
    if ('*+?{}]'.includes(char)) throw invalid(`a ${char} that stands alone`)
    return { kind: 'chars', ranges: [one(char)] }
  }

  #group(): Pattern {
    if (++this.#nesting > mostNesting) throw new PatternRefused('too_large', `more than ${mostNesting} groups nested`)
    if (this.#take('?') && !this.#take(':')) {
      // A name: what is captured plays no part.
      if (!this.#take('<') || this.#next === '=' || this.#next === '!') throw unsupported('look-around')
      while (this.#next !== undefined && !this.#take('>')) this.#at++
    }
    const pattern = this.#choice()
    if (!this.#take(')')) throw invalid('a ( without its )')
    this.#nesting--
    return pattern
  }

  #class(): Ranges {
    const inverted = this.#take('^')
    const ranges: Range[] = []
    while (!this.#take(']')) {
      const from = this.#classAtom()
      if (this.#next === '-' && this.#chars[this.#at + 1] !== ']' && this.#at + 1 < this.#chars.length) {
        this.#at++
        const to = this.#classAtom()
        const [first, last] = [from[0]?.[0], to[0]?.[1]]
        if (!isOne(from) || !isOne(to) || first! > last!) throw invalid('a range of a class')
        ranges.push([first!, last!])
      } else ranges.push(...from)
    }
    return inverted ? complement(ranges) : joined(ranges)
  }

  #classAtom(): Ranges {
    const char = this.#chars[this.#at++]
    if (char === undefined) throw invalid('a [ without its ]')
    return char === '\\' ? this.#escape(true) : [one(char)]
  }

  #escape(inClass: boolean): Ranges {
    const char = this.#chars[this.#at++]
    if (char === undefined) throw invalid('a \\ at the end')
    const set = sets[char]
    if (set) return set
    if (inClass && char === 'b') return [one('\b')]
    if (char === '0' && /\d/.test(this.#next ?? '')) throw invalid('an octal escape')
    const control = controls[char]
    if (control !== undefined) return [one(control)]
    if (char === 'x') return [this.#code(2)]
    if (char === 'u') return [this.#unicode()]
    if (char === 'c' && /[A-Za-z]/.test(this.#next ?? '')) {
      const code = this.#chars[this.#at++]!.charCodeAt(0) % 32
      return [[code, code]]
    }
    if (/[1-9k]/.test(char)) throw unsupported('a back-reference')
    if (/[bB]/.test(char)) throw unsupported('a word border')
    if (/[pP]/.test(char)) throw unsupported('a Unicode property')
    if (/[A-Za-z]/.test(char)) throw invalid(`\\${char}`)
    return [one(char)]
  }

  #code(digits: number): Range {
    const text = this.#chars.slice(this.#at, this.#at + digits).join('')
    if (!new RegExp(`^[0-9A-Fa-f]{${digits}}$`).test(text)) throw invalid('an escape without its digits')
    this.#at += digits
    const code = Number.parseInt(text, 16)
    return [code, code]
  }

  #unicode(): Range {
    if (this.#take('{')) {
      const end = this.#chars.indexOf('}', this.#at)
      if (end < 0) throw invalid('an escape without its digits')
      const text = this.#chars.slice(this.#at, end).join('')
      const code = Number.parseInt(text, 16)
      if (!/^[0-9A-Fa-f]{1,6}$/.test(text) || code > 0x10ffff) throw invalid('an escape without its digits')
      this.#at = end + 1
      return [code, code]
    }
    const [high] = this.#code(4)
    const isHigh = high >= 0xd800 && high < 0xdc00
    if (isHigh && this.#next === '\\' && this.#chars[this.#at + 1] === 'u') {
      this.#at += 2
      const [low] = this.#code(4)
      if (low < 0xdc00 || low > 0xdfff) throw invalid('half of a surrogate pair')
      const code = 0x10000 + (high - 0xd800) * 0x400 + (low - 0xdc00)
      return [code, code]
    }
    return [high, high]
  }
}

const isOne = (ranges: Ranges): boolean => ranges.length === 1 && ranges[0]![0] === ranges[0]![1]
const invalid = (what: string) => new PatternRefused('invalid', what)
const unsupported = (what: string) => new PatternRefused('unsupported', what)
const tooOften = () => new PatternRefused('too_large', `more than ${mostRepeats} repetitions`)

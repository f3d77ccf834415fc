/**
 * Makes one specialised shader of a WGSL file and of the pieces that it includes. A directive has a line of its own:
 *
 *     #include "piece.wgsl"     the piece's text, the first time that it is asked for
 *     #if NAME · #if !NAME · #if NAME == value · #if NAME != value · #elif … · #else · #endif
 *
 * and $NAME in any other line is replaced by the define's value. A define is true unless its value is empty, `0` or `false`.
 */
import { createError } from '../../errors/index.js'
import type { Defines } from './launches/launch.js'

/** The text of shaders/<name>.wgsl; undefined where there is none. In Node the addon has them, a page has a module of them. */
export type ShaderTexts = (name: string) => string | undefined

interface Line {
  shader: string
  /** From 1; 0: none. */
  number: number
}

/** One #if with its branches so far. */
interface Branch {
  line: Line
  /** Whether the lines around it are taken, whether one of its branches was, whether the present one is. */
  outer: boolean
  taken: boolean
  now: boolean
  /** After #else. */
  last: boolean
}

function failed({ shader, number }: Line, what: string) {
  const place = number > 0 ? `${shader}.wgsl:${number}` : shader
  return createError('VALIDATION_ERROR', `shader ${place}: ${what}`, { argument: 'shader', shader, line: number })
}

const linesOf = (text: string): string[] => (text.endsWith('\n') ? text.slice(0, -1) : text).split('\n')

class Specialiser {
  readonly lines: string[] = []
  readonly #texts: ShaderTexts
  readonly #defines: Defines
  readonly #seen = new Set<string>()

  constructor(texts: ShaderTexts, defines: Defines) {
    this.#texts = texts
    this.#defines = defines
  }

  file(name: string, from: Line): void {
    const text = this.#texts(name)
    if (text === undefined) throw failed(from, `there is no shader '${name}'`)
    if (this.#seen.has(name)) return
    this.#seen.add(name)
    const open: Branch[] = []
    if (text !== '')
      for (const [i, content] of linesOf(text).entries()) this.#line({ shader: name, number: i + 1 }, content, open)
    const left = open.at(-1)
    if (left) throw failed(left.line, '#if has no #endif')
  }

  #line(line: Line, content: string, open: Branch[]): void {
    const taken = open.at(-1)?.now ?? true
    const [, word, rest = ''] = /^\s*#(\w*)\s*(.*?)\s*$/.exec(content) ?? []
    if (word === undefined) {
      if (taken) this.lines.push(content.replace(/\$(\w*)/g, (_, name: string) => this.#valueOf(line, name)))
    } else if (word === 'include') {
      const [, name] = /^"(.+)\.wgsl"$/.exec(rest) ?? []
      if (!name) throw failed(line, '#include takes "name.wgsl"')
      if (taken) this.file(name, line)
    } else if (word === 'if') {
      const now = taken && this.#condition(line, rest)
      open.push({ line, outer: taken, taken: now, now, last: false })
    } else if (word === 'elif' || word === 'else' || word === 'endif') this.#next(line, word, rest, open)
    else throw failed(line, `#${word} is not known`)
  }

  #next(line: Line, word: 'elif' | 'else' | 'endif', rest: string, open: Branch[]): void {
    const branch = open.at(-1)
    if (!branch) throw failed(line, `#${word} has no #if`)
    if (word === 'endif') {
      open.pop()
      return
    }
    if (branch.last) throw failed(line, `#${word} comes after #else`)
    branch.last = word === 'else'
    branch.now = branch.outer && !branch.taken && (word === 'else' || this.#condition(line, rest))
    branch.taken ||= branch.now
  }

  /** NAME, !NAME, NAME == value, NAME != value. */
  #condition(line: Line, text: string): boolean {
    const [, not, name = '', rest = ''] = /^(!?)\s*(\w*)\s*(.*)$/.exec(text) ?? []
    if (name === '') throw failed(line, "a condition begins with a define's name")
    const value = this.#valueOf(line, name)
    if (rest === '') return !['', '0', 'false'].includes(value) !== (not === '!')
    const [, compare, wanted] = /^([=!]=)\s*(.*)$/.exec(rest) ?? []
    if (not || !compare) throw failed(line, `the condition '${text}' is not understood`)
    return (value === wanted) === (compare === '==')
  }

  #valueOf(line: Line, name: string): string {
    if (!Object.hasOwn(this.#defines, name)) throw failed(line, `the define '${name}' is missing`)
    return String(this.#defines[name])
  }
}

/** VALIDATION_ERROR {shader, line}: an unknown shader or piece, a define that is missing, an #if that is not closed, an unknown directive. */
export function specialise(texts: ShaderTexts, shader: string, defines: Defines): string {
  const specialiser = new Specialiser(texts, defines)
  specialiser.file(shader, { shader, number: 0 })
  return specialiser.lines.map((line) => `${line}\n`).join('')
}

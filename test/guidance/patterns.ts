/** Patterns beside the language's own regular expressions: the same texts. */
import t from 'tap'
import { isEngineError } from '../../lib/errors/index.js'
import { random } from '../fixtures/weights.js'
import { accepts } from './vocabularies.js'

const next = random(41)
const pick = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)]!
const atoms = ['a', 'b', 'c', '.', '\\d', '\\W', '\\s', '[ab]', '[^a]', '[^\\w"]', '[a-c1]', '\\n', '\\u{1f600}', '"']
const quantifiers = ['', '', '', '*', '+', '?', '{2}', '{1,2}', '{0}', '{2,}', '*?', '+?']

/** A regular expression of at most so many levels, as ECMA-262 has it with the flag u. */
function pattern(depth: number): string {
  const group = (): string => `${pick(['(', '(?:', '(?<x>'])}${pattern(depth - 1)})`
  const part = (): string => {
    if (next() < 0.12) return pick(['^', '$'])
    return (depth > 0 && next() < 0.3 ? group() : pick(atoms)) + pick(quantifiers)
  }
  const sequence = (): string => Array.from({ length: Math.floor(next() * 4) }, part).join('')
  return Array.from({ length: next() < 0.3 ? 2 : 1 }, sequence).join('|')
}

const text = (): string =>
  Array.from({ length: Math.floor(next() * 6) }, () => pick([...'aabbc1 \n"', '😀', '\u2028'])).join('')

t.test('a text is taken where the expression finds something in it, and nowhere else', async (t) => {
  const counts = { taken: 0, refused: 0 }
  for (let i = 0; i < 400; i++) {
    // A name may be there once.
    let names = 0
    const source = pattern(2).replaceAll('<x>', () => `<x${names++}>`)
    const expression = new RegExp(source, 'u')
    for (const sample of ['', ...Array.from({ length: 6 }, text)]) {
      let taken: boolean | undefined
      try {
        taken = accepts({ type: 'string', pattern: source }, JSON.stringify(sample))
      } catch (error) {
        if (!isEngineError(error) || error.details.reason !== 'unsatisfiable') throw error
        taken = false
      }
      const expected = expression.test(sample)
      counts[taken ? 'taken' : 'refused']++
      if (taken !== expected) t.fail(`/${source}/u: ${JSON.stringify(sample)} is ${expected}`)
    }
  }
  t.ok(counts.taken > 500 && counts.refused > 500, JSON.stringify(counts))
})

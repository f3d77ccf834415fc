import t from 'tap'
import { BYTE_SYMBOLS, bytesOfSymbols } from '../../lib/model/byte-level.js'
import { BytePairs } from '../../lib/model/byte-pairs.js'
import { CharacterPairs } from '../../lib/model/character-pairs.js'
import { findPretokenizer, SUPPORTED_PRETOKENIZERS, splitWords } from '../../lib/model/pretokenizers.js'
import type { Merge } from '../../lib/model/ranked-merges.js'
import { random } from '../fixtures/weights.js'

/** The definition, word for word: merge the leftmost pair of the lowest rank until there is none. */
function mergeByDefinition(word: string, merges: string[]): string[] {
  const pieces = [...word]
  for (;;) {
    let best = merges.length
    let at = -1
    for (let i = 0; i + 1 < pieces.length; i++) {
      const rank = merges.indexOf(`${pieces[i]} ${pieces[i + 1]}`)
      if (rank >= 0 && rank < best) {
        best = rank
        at = i
      }
    }
    if (at < 0) return pieces
    pieces.splice(at, 2, pieces[at]! + pieces[at + 1]!)
  }
}

t.test('merges as defined, on random vocabularies', async (t) => {
  const next = random(11)
  for (let round = 0; round < 30; round++) {
    const tokens = [...BYTE_SYMBOLS]
    const merges: string[] = []
    const alphabet = ['a', 'b', 'c', 'd']
    for (let i = 0; i < 60; i++) {
      const [left, right] = [0, 1].map(() => alphabet[Math.floor(next() * alphabet.length)]!)
      merges.push(`${left} ${right}`)
      alphabet.push(left! + right!)
      if (!tokens.includes(left! + right!)) tokens.push(left! + right!)
    }
    const pairs = new BytePairs(tokens, merges, false)
    for (let i = 0; i < 20; i++) {
      const word = Array.from({ length: Math.floor(next() * 40) }, () => 'abcd'[Math.floor(next() * 4)]).join('')
      const expected = mergeByDefinition(word, merges).map((piece) => tokens.lastIndexOf(piece))
      t.same(pairs.encode(word), expected, word)
      t.same(pairs.encode(word), expected, 'and from memory')
    }
  }
})

// In quadratic time it would take minutes.
t.test('long words', async (t) => {
  const pairs = new BytePairs([...BYTE_SYMBOLS, 'aa', 'aaaa'], ['a a', 'aa aa'], false)
  t.equal(pairs.encode('a'.repeat(200_002)).length, 50_001)
})

const characters = { byteIds: [], unknownId: undefined, fuseUnknown: false, isWhole: () => false }

t.test('edge cases of vocabularies', async (t) => {
  const merged = [...BYTE_SYMBOLS, 'abc']
  t.same(new BytePairs(merged, [], true).encode('abc'), [256], 'a whole word')
  t.same(new BytePairs(merged, [], false).encode('abc'), [97, 98, 99])
  t.same(new BytePairs(merged, ['a b'], false).encode('ab'), [97, 98], 'a merged piece that is no token falls apart')
  t.same(new BytePairs([...BYTE_SYMBOLS, 'ab', 'bc'], ['b c', 'a b', 'b c'], false).encode('abc'), [97, 257])
  t.same(new BytePairs(merged, ['', 'a', ' a b', 'a  b', 'a b c'], false).encode('ab'), [97, 98], 'damaged merges')
  t.same(new BytePairs(merged, [], false).encode(''), [])
  // pairs that would read the same with a space between them
  const spaced = [...BYTE_SYMBOLS, 'a b', ' b', 'a bc', 'a  b']
  const [c, ab, b] = [99, 256, 257]
  const encodeAll = (merges: Merge[], word: string) => new CharacterPairs(spaced, merges, characters).encode(word)
  const joined: Merge[] = [
    [' ', 'b'],
    ['a', ' b'],
    ['a b', 'c']
  ]
  t.same(encodeAll(joined, 'a bc'), [258])
  t.same(encodeAll(joined.slice(0, 2), 'a bc'), [ab, c])
  t.same(encodeAll([[' ', 'b'], ['a b', 'c'], 'a bc'], 'a bc'), [97, b, c], 'neither "a b" + "c" nor "a" + "bc"')
  t.same(bytesOfSymbols('Ġé→'), Uint8Array.from([32, 0xe9, 0xe2, 0x86, 0x92]))
})

t.test('words put together are the text', async (t) => {
  const next = random(3)
  for (const name of SUPPORTED_PRETOKENIZERS) {
    const pretokenizer = findPretokenizer(name)!
    for (let i = 0; i < 40; i++) {
      const text = String.fromCodePoint(...Array.from({ length: 60 }, () => Math.floor(next() ** 3 * 0xd000)))
      const words = splitWords(text, pretokenizer)
      t.equal(words.join(''), text, name)
      t.notOk(words.includes(''))
    }
  }
  const words = (name: string, text: string) => splitWords(text, findPretokenizer(name)!)
  t.same(words('gpt-2', "I'll  go 12345!\n"), ['I', "'ll", ' ', ' go', ' 12345', '!', '\n'])
  t.same(words('llama-bpe', "I'LL go 12345!\n"), ['I', "'LL", ' go', ' ', '123', '45', '!\n'])
  t.same(words('qwen2', 'go 123'), ['go', ' ', '1', '2', '3'])
  t.same(words('gpt-2', 'a\u0085\u0085b'), ['a', '\u0085', '\u0085', 'b'], 'U+0085 is white space')
  t.same(words('gpt-2', 'a\ufeffb'), ['a', '\ufeff', 'b'], 'U+FEFF is not')
})

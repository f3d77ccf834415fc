import t from 'tap'
import { BYTE_SYMBOLS } from '../../lib/model/byte-level.js'
import { BytePairs } from '../../lib/model/byte-pairs.js'
import { Reach } from '../../lib/model/token-room.js'
import { createTokenizer, type Tokenizer } from '../../lib/model/tokenizer.js'
import { moeModel } from '../fixtures/moe-model.js'
import { random } from '../fixtures/weights.js'

const exceeded = (): never => {
  throw new RangeError('no room')
}
const outcome = (action: () => readonly number[]): number | string => {
  try {
    return action().length
  } catch (error) {
    return (error as Error).message
  }
}

t.test('no text becomes fewer tokens than are said to be the fewest', async (t) => {
  const next = random(21)
  for (let round = 0; round < 40; round++) {
    const tokens = BYTE_SYMBOLS.filter((symbol) => symbol !== 'd')
    const merges: string[] = []
    const alphabet = ['a', 'b', 'c', 'd']
    for (let i = 0; i < 30; i++) {
      const [left, right] = [0, 1].map(() => alphabet[Math.floor(next() * alphabet.length)]!)
      merges.push(`${left} ${right}`)
      alphabet.push(left! + right!)
      if (!tokens.includes(left! + right!) && next() < 0.8) tokens.push(left! + right!)
    }
    const [pairs, reach] = [new BytePairs(tokens, merges, false), new Reach(tokens)]
    for (let i = 0; i < 20; i++) {
      const letters = next() < 0.5 ? 'abc' : 'abcd'
      const word = Array.from(
        { length: 1 + Math.floor(next() * 60) },
        () => letters[Math.floor(next() * letters.length)]
      )
      const text = word.join('')
      let count = 0
      try {
        count = pairs.encode(text).length
      } catch {
        // a byte of the text has no token
        continue
      }
      const fewest = reach.fewest(text, Number.POSITIVE_INFINITY)
      t.ok(fewest <= count, `${text}: ${fewest} of ${count}`)
      t.equal(reach.fewest(text, 1), Math.min(fewest, 2), 'no further than asked for')
    }
  }
  const reach = new Reach(['a', 'aaaa', 'b', 'bb', ''])
  t.equal(reach.fewest('a'.repeat(40), 100), 10)
  t.equal(reach.fewest('aabbb', 100), 2, 'the last letter of a token may begin another')
  t.equal(reach.fewest('x'.repeat(40), 100), 0, 'what is no token may give none')
})

/** Without `q`, and with nothing for what is unknown: reading a `q` throws. */
const kinds: [string, () => Tokenizer][] = [
  [
    'bytes',
    () =>
      createTokenizer({
        'tokenizer.ggml.model': 'gpt2',
        'tokenizer.ggml.pre': 'gpt-2',
        'tokenizer.ggml.tokens': ['a', 'aa', 'Ġ', 'Ġa'],
        'tokenizer.ggml.merges': ['a a', 'Ġ a']
      })
  ],
  [
    'SentencePiece',
    () =>
      createTokenizer({
        'tokenizer.ggml.model': 'llama',
        'tokenizer.ggml.tokens': ['a', 'aa', '▁', '▁a'],
        'tokenizer.ggml.scores': [0, 1, 0, 1],
        'tokenizer.ggml.add_bos_token': false
      })
  ],
  [
    'characters',
    () =>
      createTokenizer({
        'tokenizer.ggml.model': 'gemma4',
        'tokenizer.ggml.tokens': ['a', 'aa', '▁', '▁a'],
        'tokenizer.ggml.merges': ['a a', '▁ a'],
        'tokenizer.ggml.add_bos_token': false
      })
  ]
]
t.test('one word that no expression can match', async (t) => {
  const { metadata } = moeModel().file
  const tokenizer = createTokenizer({ ...metadata, 'tokenizer.ggml.pre': 'exaone-moe' })
  const word = 'b\u0301'.repeat(2 ** 21)
  t.match(
    outcome(() => tokenizer.encode(word)),
    /too long to be found/
  )
  t.equal(
    outcome(() => tokenizer.encode(word, { room: { tokens: 1000, exceeded } })),
    'no room'
  )
  t.same(tokenizer.encode('a'), [97], 'the next text is encoded')
})

t.test('a text that is too long is not encoded to its end', async (t) => {
  for (const [name, make] of kinds) {
    const tokenizer = make()
    const encode = (text: string | Uint8Array, tokens: number) =>
      outcome(() => tokenizer.encode(text, { room: { tokens, exceeded } }))
    t.equal(encode('a a a a', 20), tokenizer.encode('a a a a').length, name)
    t.equal(encode('a'.repeat(100), 50 + 1), tokenizer.encode('a'.repeat(100)).length, 'what fits, fits')
    t.equal(encode(`${'a'.repeat(100)}q`, 20), 'no room', 'one word')
    t.equal(encode(Buffer.from(`${'a'.repeat(100)}q\xff`, 'latin1'), 20), 'no room', 'bytes that are no UTF-8')
    if (name === 'characters') continue
    t.equal(encode(`${'a '.repeat(100)}q`, 20), 'no room', 'many words')
    t.match(encode(`${'a '.repeat(10)}q`, 100), /no token for byte/)
  }
})

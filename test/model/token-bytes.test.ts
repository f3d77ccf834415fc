import t from 'tap'
import { createTokenizer } from '../../lib/model/tokenizer.js'
import {
  bytesOfLossless,
  hasEscapes,
  loosenedBytes,
  losslessText,
  stretches,
  textForPatterns
} from '../../lib/model/utf8.js'
import { byteVocabulary, moeModel } from '../fixtures/moe-model.js'
import { random } from '../fixtures/weights.js'

const hex = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text.replaceAll(' ', ''), 'hex'))
const toHex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

/** Damaged bytes, and what a decoder makes of them that goes by lead bytes alone. */
const LOOSENED = [
  ['61 ff 62', '61 efbfbd 62', 'no lead byte'],
  ['80 61', 'efbfbd 61', 'a continuation alone'],
  ['e4 b8', 'efbfbd efbfbd', 'cut short'],
  ['e4 20 41', 'efbfbd 20 41', 'not followed by what it asks for'],
  ['c0 bc', '3c', 'too long a form'],
  ['f0 80 80 80', '00', 'far too long'],
  ['ed a0 80', 'ed a0 80', 'a surrogate'],
  ['ed a0 bd ed b8 80', 'ed a0 bd ed b8 80', 'a pair of them stays two'],
  ['f4 90 80 80', 'efbfbd efbfbd efbfbd efbfbd', 'beyond the last code point'],
  ['f8 88 80 80', 'efbfbd efbfbd efbfbd efbfbd', 'longer than there is'],
  ['f0 9f 98 80 c3 a9', 'f0 9f 98 80 c3 a9', 'nothing wrong']
] as const

t.test('bytes that are no UTF-8', async (t) => {
  for (const [given, loosened, what] of LOOSENED) {
    t.equal(toHex(loosenedBytes(hex(given))), toHex(hex(loosened)), what)
    const { text } = losslessText(hex(given))
    t.equal(toHex(bytesOfLossless(text)), toHex(hex(given)), `${what}: the same bytes again`)
    t.equal(Buffer.byteLength(textForPatterns(loosenedBytes(hex(given)))), hex(loosened).length, `${what}: as long`)
  }
  const next = random(9)
  for (let i = 0; i < 300; i++) {
    const bytes = Uint8Array.from({ length: 40 }, () => Math.floor(next() * 256))
    const { text, valid } = losslessText(bytes)
    t.equal(toHex(bytesOfLossless(text)), toHex(bytes))
    t.equal(hasEscapes(text), !valid)
    const parts = Array.from(stretches(bytes), (part) => (typeof part === 'string' ? Buffer.from(part) : part))
    t.equal(toHex(Buffer.concat(parts)), toHex(bytes))
  }
  t.same(losslessText(Buffer.from('\ufeffé🚀')), { text: '\ufeffé🚀', valid: true })
  t.equal(hasEscapes('🚀'), false, 'half of a character is no escape')
})

t.test('a byte-level vocabulary', async (t) => {
  const tokenizer = createTokenizer(moeModel({ vocab: 300 }).file.metadata)
  for (const [given, loosened, what] of LOOSENED) t.same(tokenizer.encode(hex(given)), [...hex(loosened)], what)
  const text = 'the 中 🚀\n'
  t.same(tokenizer.encode(Buffer.from(text)), tokenizer.encode(text))
  t.same(tokenizer.encode(hex('20 74 68 65 ff')), [...tokenizer.encode(' the'), 0xef, 0xbf, 0xbd], 'merges beside them')
  t.same(tokenizer.encode(new Uint8Array(0)), [])
})

t.test('special tokens between damaged bytes', async (t) => {
  const { tokens, types, merges, eos } = byteVocabulary(280)
  const tokenizer = createTokenizer({
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': 'qwen2',
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.token_type': types,
    'tokenizer.ggml.merges': merges
  })
  const end = Buffer.from('<|endoftext|>')
  const bytes = Buffer.concat([hex('e4'), end, hex('ff')])
  t.same(tokenizer.encode(bytes, { parseSpecial: true }), [0xef, 0xbf, 0xbd, eos, 0xef, 0xbf, 0xbd])
  const forged = Buffer.concat([hex('c0 bc'), end.subarray(1)])
  t.notOk(tokenizer.encode(forged, { parseSpecial: true }).includes(eos), 'an overlong form makes none')
})

t.test('a SentencePiece vocabulary', async (t) => {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
  const tokens = ['<unk>', '<s>', '</s>', ...bytes, '▁', 'a', '▁a', 'b']
  const spm = createTokenizer({
    'tokenizer.ggml.model': 'llama',
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.token_type': [2, 3, 3, ...bytes.map(() => 6), 1, 1, 1, 1],
    'tokenizer.ggml.scores': tokens.map((_, id) => -id),
    'tokenizer.ggml.add_bos_token': false
  })
  const byte = (value: number) => 3 + value
  const [space, a, spaceA, b] = [259, 260, 261, 262]
  t.same(spm.encode('a b'), [spaceA, space, b])
  t.same(spm.encode(hex('61 80 20 62')), [spaceA, byte(0x80), space, b])
  t.same(spm.encode(hex('ed a0 80')), [space, byte(0xed), byte(0xa0), byte(0x80)], 'bytes as they are')
  t.same(
    spm.encode(hex('e4 61 62')),
    [space, byte(0xe4), byte(0x61), byte(0x62)],
    'a lead byte takes what follows with it'
  )
  t.same(
    spm.encode(hex('f0 20 61')),
    [space, byte(0xf0), byte(0xe2), byte(0x96), byte(0x81), a],
    'a space too, in the form of the vocabulary'
  )
})

import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers'
import t from 'tap'
import { isEngineError } from '../../lib/errors/index.js'
import { BYTE_SYMBOLS } from '../../lib/model/byte-level.js'
import { createTokenizer, type Tokenizer } from '../../lib/model/tokenizer.js'
import { tokenizerMetadata } from '../../lib/model/tokenizer-files.js'
import { END_IDS } from '../../lib/model/tokenizer-json.js'
import { readGgufHeader } from '../fixtures/gguf.js'
import { random } from '../fixtures/weights.js'

const shared = process.env.TIERED_MOE_SHARED ?? resolve('../shared')

/** Letters in pairs, and some texts that share words and spaces. */
const TEXTS = [
  '',
  ' ',
  'the then  thence\n\n\nthe 12345 6',
  'naïve e\u0301 中文 日本語 🚀👩‍👩‍👧',
  ' a<tool>b <|end|> c',
  "I'll DON'T x=1;\t\r\n  y"
]

function byteLevel(change: Record<string, unknown> = {}, model: Record<string, unknown> = {}) {
  const merges = [
    ['t', 'h'],
    ['th', 'e'],
    ['Ġ', 'the'],
    ['Ġ', 'Ġ'],
    ['1', '2']
  ]
  const vocab = Object.fromEntries(
    [...BYTE_SYMBOLS, ...merges.map((merge) => merge.join(''))].map((text, id) => [text, id])
  )
  return {
    version: '1.0',
    added_tokens: [
      {
        id: 300,
        content: '<|end|>',
        special: true,
        lstrip: false,
        rstrip: false,
        normalized: false,
        single_word: false
      },
      {
        id: 301,
        content: '<tool>',
        special: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        single_word: false
      }
    ],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    ...change,
    model: { type: 'BPE', vocab, merges, ...model }
  }
}

/** As converters write SentencePiece models: characters, bytes for the others, spaces as U+2581. */
function characters(change: Record<string, unknown> = {}, model: Record<string, unknown> = {}) {
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
  const texts = ['<unk>', '<s>', '</s>', ...bytes, ...'▁abcehnotxy1', 'th', 'he', 'the', '▁the', '▁t', '▁▁']
  const vocab = Object.fromEntries(texts.map((text, id) => [text, id]))
  return {
    version: '1.0',
    added_tokens: ['<unk>', '<s>', '</s>'].map((content, id) => ({
      id,
      content,
      special: true,
      lstrip: false,
      rstrip: false,
      normalized: false,
      single_word: false
    })),
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: '▁' },
        { type: 'Replace', pattern: { String: ' ' }, content: '▁' }
      ]
    },
    pre_tokenizer: null,
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [],
      special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } }
    },
    decoder: null,
    ...change,
    model: {
      type: 'BPE',
      unk_token: '<unk>',
      fuse_unk: true,
      byte_fallback: true,
      vocab,
      merges: ['t h', 'h e', 'th e', '▁ the', '▁ t', '▁ ▁'],
      ...model
    }
  }
}

const from = (json: unknown, files: Record<string, unknown> = {}): Tokenizer =>
  createTokenizer(
    tokenizerMetadata({
      tokenizer: JSON.stringify(json),
      ...Object.fromEntries(Object.entries(files).map(([name, file]) => [name, JSON.stringify(file)]))
    })
  )

function failure(action: () => unknown): { code: string; message: string } {
  try {
    action()
  } catch (error) {
    return { code: isEngineError(error) ? error.code : 'no EngineError', message: String(error) }
  }
  return { code: 'no error', message: '' }
}

t.test('the trained model: the ids of its GGUF twin', { skip: !existsSync(shared) }, async (t) => {
  const json = readFileSync(join(shared, 'models/hf/tokenizer.json'), 'utf8')
  const model = readFileSync(join(shared, 'models/hf/config.json'), 'utf8')
  const own = createTokenizer(tokenizerMetadata({ tokenizer: json, model }))
  const twin = createTokenizer(readGgufHeader('models/tiny-shakespeare-moe-q8_0.gguf').metadata)
  const next = random(5)
  const noise = Array.from({ length: 200 }, () =>
    String.fromCodePoint(...Array.from({ length: 30 }, () => Math.floor(32 + next() ** 4 * 0xd000)))
  )
  for (const text of [...TEXTS, ...noise, 'ROMEO:\nBut soft, what light<|endoftext|>']) {
    t.same(own.encode(text), twin.encode(text), JSON.stringify(text.slice(0, 40)))
    t.same(own.encode(text, { parseSpecial: true }), twin.encode(text, { parseSpecial: true }))
  }
  const damaged = Uint8Array.from({ length: 400 }, () => Math.floor(next() * 256))
  t.same(own.encode(damaged), twin.encode(damaged), 'bytes that are no UTF-8')
  t.same([...own.eosIds], [...twin.eosIds])
  t.equal(own.vocab, twin.vocab)
  const { prompt, ids, greedy, text } = JSON.parse(readFileSync(join(shared, 'models/reference.json'), 'utf8'))
  t.same(own.encode(prompt), ids)
  t.equal(own.decode([...ids, ...greedy]), text)
})

t.test('the ids of @huggingface/tokenizers', async (t) => {
  const split = (Regex: string) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false })
  const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }
  const sequence = (...pretokenizers: unknown[]) => ({ pre_tokenizer: { type: 'Sequence', pretokenizers } })
  const llama3 =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
  const noPrepend = { normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '▁' } }
  const metaspace = (prepend_scheme: string) => ({
    normalizer: null,
    pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme, split: false }
  })
  const forms: [string, unknown][] = [
    ['byte level', byteLevel()],
    ['a space before', byteLevel({ pre_tokenizer: { ...bytes, use_regex: true, add_prefix_space: true } })],
    ['composed', byteLevel({ normalizer: { type: 'NFC' } })],
    ['a split', byteLevel(sequence(split(llama3), bytes))],
    ['whole words', byteLevel(sequence(split(llama3), bytes), { ignore_merges: true })],
    ['digits', byteLevel(sequence({ type: 'Digits', individual_digits: true }, { ...bytes, use_regex: true }))],
    ['deepseek', byteLevel(sequence(split('\\p{N}{1,3}'), split('[一-龥\u3040-ゟ゠-ヿ]+'), bytes))],
    ['merges as texts', byteLevel({}, { merges: ['t h', 'th e', 'Ġ the', 'Ġ Ġ', '1 2'] })],
    ['characters', characters()],
    ['characters, nothing before', characters(noPrepend)],
    [
      'a split at replaced spaces',
      characters({
        ...noPrepend,
        pre_tokenizer: { type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithPrevious', invert: false }
      })
    ],
    ['characters, no bytes', characters({}, { byte_fallback: false })],
    ['characters, each unknown one for itself', characters({}, { byte_fallback: false, fuse_unk: false })],
    ['metaspace', characters(metaspace('always'))],
    ['metaspace, never', characters(metaspace('never'))]
  ]
  for (const [name, json] of forms) {
    const oracle = new HuggingFaceTokenizer(json as object, {})
    const own = from(json)
    for (const text of TEXTS) {
      if (text === '') continue
      const expected = oracle.encode(text, { add_special_tokens: false }).ids
      t.same(own.encode(text, { parseSpecial: true, addSpecial: false }), expected, `${name}: ${JSON.stringify(text)}`)
    }
  }
})

t.test('what a folder says beside it', async (t) => {
  const plain = from(byteLevel())
  t.same(plain.encode('a'), [BYTE_SYMBOLS.indexOf('a')])
  t.same([...plain.eosIds], [300], 'by its name')
  t.equal(plain.decode(plain.encode('a the 中')), 'a the 中')
  t.equal(plain.decode([301]), '<tool>')
  t.equal(plain.decode([300]), '')
  t.equal(failure(() => plain.applyChatTemplate([])).code, 'CHAT_TEMPLATE_INVALID')
  const a = BYTE_SYMBOLS.indexOf('a')
  const config = {
    bos_token: { content: '<tool>', special: true },
    eos_token: '<|end|>',
    add_bos_token: true,
    chat_template: [
      { name: 'tool_use', template: 'no' },
      { name: 'default', template: '{{ bos_token }}{{ messages[0].content }}{{ eos_token }}' }
    ]
  }
  const rich = from(byteLevel(), {
    config,
    generation: { eos_token_id: [300, 12, 13, 15] },
    model: { eos_token_id: 14 }
  })
  t.same(rich.encode('a'), [301, a])
  t.equal(rich.applyChatTemplate([{ role: 'user', content: 'hi' }]), '<tool>hi<|end|>')
  t.same(
    [...rich.eosIds].sort((x, y) => x - y),
    [12, 13, 14, 15, 300]
  )
  t.same(
    [...from(byteLevel(), { model: { eos_token_id: 14 } }).eosIds].sort((x, y) => x - y),
    [14, 300]
  )
  const chatTemplate = tokenizerMetadata({ tokenizer: JSON.stringify(byteLevel()), chatTemplate: 'a file' })
  t.equal(chatTemplate['tokenizer.chat_template'], 'a file')
  const spm = from(characters())
  t.same(spm.encode('a').slice(0, 1), [1], 'the template of the post-processor')
  t.equal(spm.bosId, 1)
  t.equal(spm.decode(spm.encode('the é', { addSpecial: false })), ' the é')
  const decoder = {
    type: 'Sequence',
    decoders: [{ type: 'ByteFallback' }, { type: 'Strip', content: ' ', start: 1, stop: 0 }]
  }
  const dropping = from(characters({ decoder }))
  t.equal(dropping.decode(dropping.encode('the é', { addSpecial: false })), 'the é', 'the space of the first word')
  const words = {
    normalizer: null,
    pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: true }
  }
  const cut = from(characters({ ...words, post_processor: null }))
  const { '▁': space, '▁▁': double } = characters().model.vocab as Record<string, number>
  t.same(cut.encode('a  a'), [...cut.encode('a'), space, ...cut.encode('a')], 'each space begins a word')
  t.same(
    from(
      characters({
        ...words,
        pre_tokenizer: null,
        post_processor: null,
        normalizer: { type: 'Replace', pattern: { String: ' ' }, content: '▁' }
      })
    ).encode('  '),
    [double]
  )
  const stripped = characters()
  stripped.added_tokens.push({
    ...stripped.added_tokens[0]!,
    id: 400,
    content: '<x>',
    special: false,
    lstrip: true,
    rstrip: true
  })
  t.same(from(stripped).encode('a  <x> \n a'), from(stripped).encode('a<x>a'))
})

t.test('what is not supported is named, when text is encoded', async (t) => {
  const sequence = (...pretokenizers: unknown[]) => ({ pre_tokenizer: { type: 'Sequence', pretokenizers } })
  const pattern = (Regex: string, behavior = 'Isolated') => ({
    type: 'Split',
    pattern: { Regex },
    behavior,
    invert: false
  })
  const bytes = { type: 'ByteLevel', add_prefix_space: false, use_regex: false }
  for (const [name, json, named] of [
    ['model', byteLevel({}, { type: 'WordPiece' }), 'WordPiece'],
    ['normalizer', byteLevel({ normalizer: { type: 'Precompiled' } }), 'Precompiled'],
    ['a long text', byteLevel({ normalizer: { type: 'Prepend', prepend: 'a'.repeat(1000) } }), 'Prepend'],
    [
      'more and more',
      byteLevel({
        normalizer: {
          type: 'Sequence',
          normalizers: Array(40).fill({ type: 'Replace', pattern: { String: 'a' }, content: 'a'.repeat(60) })
        }
      }),
      'multiply'
    ],
    [
      'many steps',
      byteLevel({ pre_tokenizer: { type: 'Sequence', pretokenizers: Array(200_000).fill(bytes) } }),
      'more than 64'
    ],
    [
      'steps in steps',
      byteLevel(
        Array(100)
          .fill(0)
          .reduce((inner) => sequence(inner.pre_tokenizer, bytes), sequence(bytes))
      ),
      'more than 64'
    ],
    ['foreign pattern', byteLevel(sequence(pattern('(a+)+$'), bytes)), '(a+)+$'],
    ['broken pattern', byteLevel(sequence(pattern('('), bytes)), '('],
    ['behavior', byteLevel(sequence(pattern('\\p{N}', 'MergedWithNext'), bytes)), 'MergedWithNext'],
    ['after bytes', byteLevel(sequence(bytes, { type: 'Digits', individual_digits: true })), 'Digits'],
    ['pre-tokenizer', byteLevel({ pre_tokenizer: { type: 'UnicodeScripts' } }), 'UnicodeScripts'],
    ['sequence', byteLevel({ pre_tokenizer: { type: 'Sequence', pretokenizers: [1] } }), 'Sequence'],
    ['prefix', byteLevel({}, { continuing_subword_prefix: '##' }), '##'],
    ['dropout', byteLevel({}, { dropout: 0.1 }), 'dropout'],
    [
      'post-processor',
      byteLevel({ post_processor: { type: 'RobertaProcessing', sep: ['b', 98], cls: ['a', 97] } }),
      'RobertaProcessing'
    ],
    [
      'two templates',
      byteLevel({ post_processor: { type: 'Sequence', processors: Array(2).fill({ type: 'TemplateProcessing' }) } }),
      'TemplateProcessing'
    ],
    ['a space of two characters', characters({ pre_tokenizer: { type: 'Metaspace', replacement: '__' } }), 'Metaspace'],
    ['a space of none', characters({ pre_tokenizer: { type: 'Metaspace', replacement: '' } }), 'Metaspace'],
    [
      'template',
      byteLevel({
        post_processor: {
          type: 'TemplateProcessing',
          single: [{ SpecialToken: { id: 'a' } }, { SpecialToken: { id: 'b' } }]
        }
      }),
      'template'
    ]
  ] as const) {
    const tokenizer = from(json)
    t.ok(tokenizer.decode([1]) !== undefined, `${name}: ids can be decoded`)
    const { code, message } = failure(() => tokenizer.encode('x'))
    t.equal(code, 'TOKENIZER_UNSUPPORTED', name)
    t.ok(message.includes(named), message)
  }
})

t.test('damaged and hostile files', async (t) => {
  const good = byteLevel()
  const change = (path: string, value: unknown) => {
    const copy = structuredClone(good) as Record<string, unknown>
    const names = path.split('.')
    const inner = names
      .slice(0, -1)
      .reduce<Record<string, unknown>>((at, name) => at[name] as Record<string, unknown>, copy)
    inner[names.at(-1)!] = value
    return copy
  }
  for (const [path, value] of [
    ['model', 7],
    ['model.vocab', undefined],
    ['model.vocab', ['a']],
    ['model.vocab', { a: -1 }],
    ['model.vocab', { a: 1e9 }],
    ['model.vocab', { a: 'b' }],
    ['model.vocab', { ['a'.repeat(5000)]: 1 }],
    ['model.vocab', { a: 1, b: 1 }],
    ['model.merges', 'abc'],
    ['model.merges', [['a', 'b', 'c']]],
    ['model.merges', [1]],
    ['model.type', 7],
    ['added_tokens', [{ id: 'x', content: 'y' }]],
    ['added_tokens', [{ id: 0, content: 'another' }]],
    ['added_tokens', {}],
    ['normalizer', 'NFC'],
    ['pre_tokenizer', 12]
  ] as const) {
    t.equal(
      failure(() => from(change(path, value))).code,
      'METADATA_INVALID',
      `${path} ${JSON.stringify(value)?.slice(0, 40)}`
    )
  }
  for (const text of ['', '{', '[]', 'null', `${'['.repeat(100_000)}`]) {
    t.equal(
      failure(() => createTokenizer(tokenizerMetadata({ tokenizer: text }))).code,
      'METADATA_INVALID',
      text.slice(0, 10)
    )
  }
  for (const files of [
    { config: { bos_token: 7 } },
    { config: { chat_template: [1] } },
    { generation: { eos_token_id: 'x' } },
    { model: [] }
  ]) {
    t.equal(failure(() => from(good, files)).code, 'METADATA_INVALID', JSON.stringify(files))
  }
  t.equal(
    failure(() => from(good, { model: { bos_token_id: 5000 } })).code,
    'METADATA_INVALID',
    'an id outside of the vocabulary'
  )
  for (const list of ['7', '[-1]', '[302]', '["a"]', '{', '[1.5]']) {
    const metadata = tokenizerMetadata({ tokenizer: JSON.stringify(good) })
    t.equal(failure(() => createTokenizer({ ...metadata, [END_IDS]: list })).code, 'METADATA_INVALID', list)
  }
  const odd = JSON.stringify(good).replace('"!":33', '"!":33,"__proto__":302')
  t.equal(createTokenizer(tokenizerMetadata({ tokenizer: odd })).decode([302]), '__proto__')
})

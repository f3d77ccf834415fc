// Tokenizers: foreign tokenizer.json files, and texts of any bytes.
import { createTokenizer } from '../../../dist/esm/model/tokenizer.js'
import { tokenizerMetadata } from '../../../dist/esm/model/tokenizer-files.js'
import { mutatedText, mutatedValue } from '../mutate.mjs'
import { tinyModel } from '../tiny-model.mjs'

const text = 'the  inner 😀 中文 123\n<|end|><x>\u0000'
const split = (pattern, behavior = 'Isolated') => ({ type: 'Split', pattern, behavior, invert: false })
const sequence = (...pretokenizers) => ({ type: 'Sequence', pretokenizers })
const bytes = { type: 'ByteLevel', add_prefix_space: false, use_regex: false }

/** A vocabulary over characters with a few merges, and steps of every kind that is known. */
function sample({ pre_tokenizer = null, normalizer = null, post_processor = null }) {
  const texts = [
    '<unk>',
    ...'▁Ġtheinr123 ',
    ...Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).padStart(2, '0').toUpperCase()}>`),
    'th',
    'the',
    'in'
  ]
  return {
    version: '1.0',
    added_tokens: [
      {
        id: 300,
        content: '<|end|>',
        special: true,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false
      },
      { id: 301, content: '<x>', special: false, single_word: false, lstrip: true, rstrip: true, normalized: true }
    ],
    normalizer,
    pre_tokenizer,
    post_processor,
    decoder: null,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: '<unk>',
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab: Object.fromEntries(texts.map((token, id) => [token, id])),
      merges: ['t h', 'th e', ['i', 'n']]
    }
  }
}

const samples = [
  sample({
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: '▁' },
        { type: 'Replace', pattern: { String: ' ' }, content: '▁' }
      ]
    },
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<unk>' } }, { Sequence: { id: 'A' } }]
    }
  }),
  sample({
    pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: true },
    normalizer: { type: 'NFKC' }
  }),
  sample({
    pre_tokenizer: sequence(
      split({ Regex: '\\p{N}{1,3}' }),
      split({ String: ' ' }, 'MergedWithPrevious'),
      { type: 'Digits', individual_digits: true },
      bytes
    )
  }),
  sample({ pre_tokenizer: sequence({ type: 'Punctuation', behavior: 'Isolated' }, { ...bytes, use_regex: true }) })
]
const folder = {
  config: {
    bos_token: '<unk>',
    eos_token: { content: '<|end|>' },
    add_bos_token: true,
    chat_template: [{ name: 'default', template: '{{ bos_token }}' }]
  },
  generation: { eos_token_id: [1, 2, 3] },
  model: { bos_token_id: 1, eos_token_id: 2 }
}
const words = [
  '"type":',
  '"Regex":',
  '"(a+)+$"',
  '"Sequence"',
  '"vocab":{}',
  '"id":4294967296',
  'null',
  '"\\ud800"',
  '[[[[',
  '"__proto__"'
]

/** Whole files, as values that were changed and as texts that were. */
export async function tokenizers() {
  const files = (draw) => {
    const parts = Object.entries({ tokenizer: draw.pick(samples), ...folder })
    const changed = draw.below(parts.length)
    return parts.map(([name, value], i) => {
      if (i !== changed) return [name, JSON.stringify(value)]
      if (draw.chance(0.3)) return [name, mutatedText(draw, [JSON.stringify(value)], words)]
      return [name, JSON.stringify(mutatedValue(draw, value)) ?? '']
    })
  }
  return {
    make: files,
    parse(entries) {
      const tokenizer = createTokenizer(tokenizerMetadata(Object.fromEntries(entries)))
      const ids = tokenizer.encode(text)
      tokenizer.decode(ids)
      tokenizer.encode(Buffer.from(`${text}\xff`, 'latin1'), { parseSpecial: true })
    }
  }
}

const pieces = [
  '<|endoftext|>',
  ' ',
  '\n',
  'the ',
  'é',
  '中',
  '😀',
  '\u0301',
  '1234567',
  "'ll",
  '\ud800',
  '▁',
  '<0x0A>'
]

/** Texts of any bytes under each kind of vocabulary: ids of the vocabulary, and for valid text its text again. */
export async function texts() {
  const { file } = await tinyModel({ vocab: 300 })
  const byteNames = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`)
  const tokens = ['<unk>', '<s>', '</s>', ...byteNames, '▁', '▁the', 'th', 'he', 't', 'h', 'e', '中']
  const pretokenizers = [
    'gpt-2',
    'llama-bpe',
    'gpt-4o',
    'deepseek-v3',
    'deepseek-llm',
    'qwen2',
    'tiny_aya',
    'superbpe',
    'kimi-k2',
    'bloom'
  ]
  const all = [
    ...pretokenizers.map((pre) =>
      createTokenizer({ ...file.metadata, 'tokenizer.ggml.pre': pre, 'tokenizer.ggml.add_bos_token': false })
    ),
    createTokenizer({
      'tokenizer.ggml.model': 'llama',
      'tokenizer.ggml.tokens': tokens,
      'tokenizer.ggml.token_type': tokens.map((_, id) => (id < 1 ? 2 : id < 3 ? 3 : id < 259 ? 6 : 1)),
      'tokenizer.ggml.scores': tokens.map((_, id) => -id),
      'tokenizer.ggml.add_bos_token': false
    }),
    createTokenizer(tokenizerMetadata({ tokenizer: JSON.stringify(samples[0]) }))
  ]
  return {
    make: (draw) => ({
      which: draw.below(all.length),
      special: draw.chance(0.5),
      bytes: draw.chance(0.1)
        ? Buffer.from(draw.pick(pieces).repeat(1 + draw.below(20_000)))
        : Buffer.concat(
            Array.from({ length: draw.below(40) }, () =>
              draw.chance(0.5) ? Buffer.from(draw.pick(pieces)) : Buffer.of(draw.below(256))
            )
          )
    }),
    parse({ which, special, bytes: given }) {
      const tokenizer = all[which]
      const ids = tokenizer.encode(given, { parseSpecial: special, addSpecial: false })
      const bad = ids.find((id) => !(Number.isInteger(id) && id >= 0 && id < tokenizer.vocab))
      if (bad !== undefined) throw new TypeError(`id ${bad} of ${tokenizer.vocab}`)
      const back = tokenizer.decode(ids, { special: true })
      const { text: valid, isValid } = asText(given)
      if (isValid && which < pretokenizers.length && back !== valid)
        throw new TypeError(`another text came back: ${JSON.stringify(back.slice(0, 100))}`)
    }
  }
}

const statements = [
  '{% set a = [1, messages] %}',
  '{% set a = [a, a] %}',
  '{% set a = a + a %}',
  '{% set s = "ab" %}',
  '{% set s = s ~ s %}',
  '{% set n = namespace(a=1) %}',
  '{% set n.a = [n.a, n.a] %}',
  '{% set f = messages %}',
  '{% if m is not defined %}{% set m = messages[0] %}{% endif %}',
  '{{ f(f) }}{{ f(a) }}',
  '{{ m.role }}{{ m.content }}',
  '{{ a | tojson }}',
  '{{ n.a | tojson(indent=100) }}',
  '{{ messages[::-1] | length }}',
  '{{ s.split("a") | join("bbb") }}',
  '{{ s | replace("", s) | indent(1000) }}',
  '{{ range(1000) | length }}',
  '{{ strftime_now("%Y") }}',
  '{{ raise_exception(1) }}',
  '<|endoftext|>',
  '{% endfor %}',
  'text\n'
]
const blocks = [
  ['{% for m in messages %}', '{% endfor %}'],
  ['{% for x in range(20) %}', '{% endfor %}'],
  ['{% for x in a %}', '{% endfor %}'],
  ['{% macro f(x) %}', '{% endmacro %}{{ f(1) }}'],
  ['{% if a is defined %}', '{% else %}-{% endif %}']
]

function templateOf(draw, depth) {
  const parts = Array.from({ length: 1 + draw.below(5) }, () => {
    if (depth === 0 || draw.chance(0.6)) return draw.pick(statements).repeat(draw.chance(0.1) ? 1 + draw.below(24) : 1)
    const [before, after] = draw.pick(blocks)
    return before + templateOf(draw, depth - 1) + after
  })
  return parts.join('')
}

/** Chat templates of a few statements, some of them many times and in loops, on messages of any text. */
export async function templates() {
  const { file } = await tinyModel({ vocab: 300 })
  const setUp = '{% set a = [1] %}{% set s = "ab" %}{% set n = namespace(a=1) %}'
  return {
    make: (draw) => ({
      template: (draw.chance(0.7) ? setUp : '') + templateOf(draw, 2),
      messages: Array.from({ length: draw.below(5) }, () => ({ role: draw.pick(pieces), content: draw.pick(pieces) }))
    }),
    parse({ template, messages }) {
      createTokenizer(file.metadata, template).encodeChat(messages)
    }
  }
}

function asText(given) {
  try {
    return { text: new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(given), isValid: true }
  } catch {
    return { isValid: false }
  }
}

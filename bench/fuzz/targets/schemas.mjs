// JSON schemas that a request's text is to keep to.
import { compileGuide } from '../../../dist/esm/guidance/index.js'
import { createTokenizer } from '../../../dist/esm/model/tokenizer.js'
import { mutatedValue } from '../mutate.mjs'
import { tinyModel } from '../tiny-model.mjs'

const samples = [
  {
    type: 'object',
    properties: {
      name: { type: 'string', minLength: 1, maxLength: 20 },
      age: { type: 'integer', minimum: 0, maximum: 150 }
    },
    required: ['name'],
    additionalProperties: false
  },
  {
    type: 'array',
    items: { anyOf: [{ type: 'number' }, { type: 'null' }, { enum: ['a', 1, true] }] },
    minItems: 1,
    maxItems: 4
  },
  {
    $defs: {
      node: { type: 'object', properties: { next: { $ref: '#/$defs/node' }, value: { const: [1, { a: 2 }] } } }
    },
    $ref: '#/$defs/node'
  },
  { type: 'string', pattern: '^[a-z]{2,4}(-[0-9]+)?$' },
  {
    oneOf: [
      {
        type: 'object',
        properties: { kind: { const: 'a' }, n: { type: 'number', exclusiveMaximum: 0 } },
        required: ['kind']
      },
      { type: 'object', properties: { kind: { enum: ['b', 'c'] } }, required: ['kind'] },
      { enum: [{ a: 1, b: 2 }, null] }
    ]
  },
  { type: 'array', prefixItems: [{ type: 'boolean' }, { type: 'string', format: 'date' }], items: false }
]

const times = (count, make) => Array.from({ length: count }, (_, i) => make(i))

/** Of each kind what was once found to take too long or too much, in sizes that are drawn. */
const hostile = [
  (draw) => ({
    type: 'string',
    pattern: draw.pick(['\\u{41', '\\u{', '[\\u{41', '\\u{110000}', '(\\u{41})\\u{', '[^\\u{'])
  }),
  // Characters beyond ASCII, no two of them side by side.
  (draw) => {
    const chars = String.fromCodePoint(...times(1 + draw.size(8000), (i) => 0x3400 + 2 * i))
    const pattern = `^[${draw.pick(['', '^'])}${chars}]${draw.pick(['*', '{0,100}', '{1000}', ''])}$`
    const lengths = { minLength: draw.size(8000), maxLength: draw.size(2 ** 40) }
    return { type: 'string', pattern, ...draw.pick([{}, lengths, { minLength: lengths.minLength }]) }
  },
  (draw) => {
    const bound = '1'.repeat(1 + draw.size(100_000))
    return {
      type: 'string',
      pattern: `a{${bound}${draw.pick(['}', 'a}', ',}', ',a}', `,${bound}}`, `,${bound}a}`, ''])}`
    }
  },
  (draw) => {
    const each = draw.pick([
      {},
      { $ref: '#/$defs/a' },
      { type: 'array', minItems: 1 },
      { type: 'string', minLength: 3 }
    ])
    return { anyOf: times(1 + draw.size(8000), () => ({ ...each })), $defs: { a: { items: {}, minItems: 1 } } }
  },
  (draw) => ({ anyOf: times(1 + draw.size(500), (i) => ({ type: 'string', minLength: 1e6 + i })) }),
  (draw) => ({
    properties: { ['x'.repeat(draw.size(2 ** 20))]: {} },
    additionalProperties: draw.pick([{}, null, true])
  }),
  (draw) => ({
    type: draw.pick(['integer', 'number']),
    minimum: 10 ** (12 + draw.below(8)),
    maximum: 10 ** draw.below(20)
  })
]

export async function schemas() {
  const { file } = await tinyModel({ vocab: 300 })
  const tokenizer = createTokenizer(file.metadata)
  const all = Array.from({ length: 300 }, (_, id) => id)
  return {
    make: (draw) => mutatedValue(draw, draw.chance(0.2) ? draw.pick(hostile)(draw) : draw.pick(samples)),
    parse(schema) {
      const guide = compileGuide({ type: 'json_schema', schema }, tokenizer, 300)
      // Tokens that may come, one after another: each place has one, as every byte is a token, and takes it.
      const state = guide.start()
      for (let length = 0; length < 12 && !state.ended; length++) {
        const mask = state.mask()
        const allowed = all.filter((id) => !tokenizer.eosIds.has(id) && mask && (mask[id >>> 5] >>> (id & 31)) & 1)
        if (allowed.length === 0) throw new TypeError(`no token: ${state.describe()}`)
        const token = allowed[(length * 7919) % allowed.length]
        if (!state.accept(token)) throw new TypeError(`token ${token} of the mask is not taken: ${state.describe()}`)
      }
    }
  }
}

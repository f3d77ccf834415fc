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

export async function schemas() {
  const { file } = await tinyModel({ vocab: 300 })
  const tokenizer = createTokenizer(file.metadata)
  const all = Array.from({ length: 300 }, (_, id) => id)
  return {
    make: (draw) => mutatedValue(draw, draw.pick(samples)),
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

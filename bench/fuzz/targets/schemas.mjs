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
  { type: 'array', prefixItems: [{ type: 'boolean' }, { type: 'string', format: 'date' }], items: false }
]

export async function schemas() {
  const { file } = await tinyModel({ vocab: 300 })
  const tokenizer = createTokenizer(file.metadata)
  return {
    make: (draw) => mutatedValue(draw, draw.pick(samples)),
    parse(schema) {
      const guide = compileGuide({ type: 'json_schema', schema }, tokenizer, 300)
      // The first tokens that may come, one after another.
      const state = guide.start()
      for (let length = 0; length < 8; length++) {
        const mask = state.mask()
        if (!mask) return 'ended'
        const token = Array.from({ length: 300 }, (_, id) => id).find((id) => (mask[id >>> 5] >>> (id & 31)) & 1)
        if (token === undefined || !state.accept(token)) return 'ended'
      }
    }
  }
}

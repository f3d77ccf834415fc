/** Which texts a schema lets through: by a table, and by random schemas against an own checker. */
import t from 'tap'
import type { JsonSchema } from '../../lib/guidance/index.js'
import { random } from '../fixtures/weights.js'
import { fault } from './checker.js'
import { randomSchema } from './random-schema.js'
import { accepts, begin, vocabularies, write } from './vocabularies.js'

const list = { type: 'object', properties: { v: { type: 'integer' }, next: { $ref: '#' } }, required: ['v'] }

const table: [schema: JsonSchema | undefined, accepted: string[], refused: string[]][] = [
  [
    undefined,
    ['{}', ' {}', '\n  { }', '{"a":1}', '{"a": [1, {"b":\n\t\tnull}], "c":"\\u00e9\\ud83d\\ude00é"}', '{"a":-0.5e-7}'],
    [
      '',
      '[]',
      '1',
      '{',
      '{} ',
      '{,}',
      '{"a"}',
      '{"a":01}',
      '{"a":1,}',
      '{"a":+1}',
      '{"a":"\\x"}',
      '{"a":"\n"}',
      "{'a':1}"
    ]
  ],
  [
    undefined,
    ['{"\\/\\b\\f":true}'],
    ['{"a":"\\ud83d"}', '{"a":"\\ude00"}', '{"a":nul}', '{"a" :1}', '{  }', '{"a":.5}']
  ],
  [{}, ['1', '"a"', 'null', '[[]]', '{}', '123456789012345'], ['1234567890123456', '', 'nan']],
  [{ type: 'integer' }, ['0', '-7', '12'], ['1.0', '1e3', '-', '007', '+1']],
  [{ type: 'integer', minimum: 7, maximum: 123 }, ['7', '10', '99', '100', '123'], ['6', '124', '200', '1000', '-7']],
  [{ type: 'integer', exclusiveMinimum: -12, maximum: 3 }, ['-11', '-1', '0', '3'], ['-12', '4', '-20']],
  [{ type: 'integer', minimum: 0.5, maximum: 1e300 }, ['1', '999999999999999'], ['0', '-1']],
  [{ type: 'number', minimum: 0 }, ['0', '0.25', '17.5', '0.0'], ['-1', '-0.1', '1e5']],
  [
    { type: 'number', exclusiveMinimum: 0.25, maximum: 10 },
    ['0.3', '0.250001', '10', '10.00', '9.99'],
    ['0.25', '0.2', '10.01', '11']
  ],
  [
    { type: 'number', minimum: -2.5, exclusiveMaximum: -0.125 },
    ['-2.5', '-1', '-0.126', '-2.50'],
    ['-0.125', '-2.51', '0', '-3']
  ],
  [{ type: 'number', minimum: -1e50 }, ['-7', '0.5', '999999999999999'], ['-1e51', '-1e99', '1e2']],
  [{ type: 'number', exclusiveMaximum: 1e114 }, ['1', '-0.5'], ['999999999999999.9999999999999999e99', '1e99']],
  [{ type: 'number', maximum: 1e300 }, ['1e99', '-1e-99'], ['1e100']],
  [{ type: 'number', minimum: -1, exclusiveMaximum: 0 }, ['-1', '-0.5', '-0.01'], ['-0', '-0.0', '0', '-1.1']],
  [
    { type: 'string', minLength: 2, maxLength: 3 },
    ['"ab"', '"漢字😀"', '"\\n\\u0041"', '"\\ud83d\\ude00x"'],
    ['"a"', '"abcd"', '""']
  ],
  [{ type: 'string', pattern: '^a.c$' }, ['"abc"', '"a😀c"', '"a\\"c"'], ['"ac"', '"a\\nc"', '"abcd"', '"\\u0061bc"']],
  [{ type: 'string', pattern: 'b{2,}' }, ['"bb"', '"abbba"'], ['"b"', '"aba"']],
  [{ type: 'string', pattern: '^[ab]+$', minLength: 2, maxLength: 3 }, ['"ab"', '"aba"'], ['"a"', '"abab"', '"ac"']],
  [{ type: 'string', format: 'date' }, ['"2024-02-28"', '"1999-12-31"'], ['"2023-02-30"', '"2024-04-31"', '"24-1-1"']],
  [
    { enum: ['a', 'ab', 1, null, { k: [1] }] },
    ['"a"', '"ab"', '1', 'null', '{"k":[1]}'],
    ['"b"', '2', '{"k":[2]}', '{"k": [1]}']
  ],
  [{ type: 'string', enum: ['a', 1] }, ['"a"'], ['1']],
  [{ const: 'é"' }, ['"é\\""'], ['"é"']],
  [
    { type: 'object', properties: { a: { type: 'integer' }, b: { type: 'null' } }, required: ['b'] },
    ['{"b":null}', '{"a":1,"b":null}', '{"a":1, "b": null }'],
    ['{}', '{"a":1}', '{"b":null,"a":1}', '{"b":null,"c":1}', '{"a":1,"a":1,"b":null}']
  ],
  [
    { properties: { a: { type: 'integer' } }, additionalProperties: { type: 'boolean' }, required: ['z'] },
    ['{"z":true}', '{"a":1,"z":false,"b":true,"c":true}'],
    ['{"z":1}', '{"a":1}', '{"z":true,"a":1}', '{"z":true,"\\u0061":true}', '{"z":true,"b":1}']
  ],
  [{ type: 'object' }, ['{"anything":[1]}'], ['[]']],
  [{ type: 'object', additionalProperties: false }, ['{}'], ['{"a":1}']],
  [
    { type: 'array', items: { type: 'integer' }, minItems: 1, maxItems: 2 },
    ['[1]', '[1, 2]'],
    ['[]', '[1,2,3]', '["a"]', '[1 ,2]']
  ],
  [{ type: 'array', maxItems: 0 }, ['[]', '[ ]'], ['[1]']],
  [
    { prefixItems: [{ type: 'integer' }, { type: 'string' }], minItems: 1 },
    ['[1]', '[1,"a"]'],
    ['[]', '["a"]', '[1,"a",2]']
  ],
  [
    { prefixItems: [{ const: 1 }], items: { const: 2 }, minItems: 3, maxItems: 3 },
    ['[1,2,2]'],
    ['[1,2]', '[1,2,2,2]', '[1,1,2]']
  ],
  [{ anyOf: [{ const: 12 }, { const: 123 }, { type: 'null' }] }, ['12', '123', 'null'], ['1', '1234']],
  [
    { oneOf: [{ type: 'object', properties: { k: { const: 'a' } }, required: ['k'] }, { type: 'null' }] },
    ['{"k":"a"}', 'null'],
    ['{}']
  ],
  [{ allOf: [{ $ref: '#/$defs/~1a~0%25' }], $defs: { '/a~%': { const: 1 } } }, ['1'], ['2']],
  [list, ['{"v":1}', '{"v":1,"next":{"v":2,"next":{"v":3}}}'], ['{"v":1,"next":null}', '{"next":{"v":1}}']]
]

t.test('a table of schemas and texts', async (t) => {
  for (const [schema, accepted, refused] of table) {
    const name = JSON.stringify(schema ?? 'json_object')
    for (const text of accepted) {
      t.ok(accepts(schema, text), `${name}: ${text}`)
      if (schema) t.equal(fault(schema, JSON.parse(text)), undefined, `the checker too: ${text}`)
    }
    for (const text of refused) t.notOk(accepts(schema, text), `${name}: not ${text}`)
  }
  t.notOk(accepts({ type: 'string' }, Uint8Array.of(0x22, 0xc3, 0x22)), 'half a character')
  t.notOk(accepts({ type: 'string' }, Uint8Array.of(0x22, 0xed, 0xa0, 0x80, 0x22)), 'a surrogate')
})

t.test('objects and arrays go 64 levels deep, and end there', async (t) => {
  const nested = (levels: number) => `${'['.repeat(levels)}${']'.repeat(levels)}`
  t.ok(accepts({ type: 'array' }, nested(64)))
  t.notOk(accepts({ type: 'array' }, nested(65)))
  const state = begin({ $ref: '#/$defs/a', $defs: { a: { type: 'array', items: { $ref: '#/$defs/a' } } } })
  for (let i = 0; i < 64; i++) t.ok(state.accept(0x5b))
  t.notOk(state.accept(0x5b), 'where it could not be closed any more')
})

t.test('random schemas: every whole text is JSON that they accept', async (t) => {
  const next = random(11)
  let whole = 0
  let all = 0
  for (let i = 0; i < 150; i++) {
    const schema = randomSchema(next)
    for (const [kind, tokens] of Object.entries(vocabularies)) {
      const text = write(begin(schema, tokens), tokens, next)
      all++
      if (text === undefined) continue
      whole++
      const found = fault(schema, JSON.parse(text))
      if (found !== undefined) t.fail(`${kind}: ${found}`, { schema: JSON.stringify(schema), text })
    }
  }
  t.ok(whole > all * 0.8, `${whole} of ${all} texts are whole`)
  t.comment(`${whole} of ${all} texts are whole`)
})

t.test('changed texts: what is let through is accepted', async (t) => {
  const next = random(12)
  let through = 0
  for (const [schema, accepted] of table) {
    if (!schema) continue
    for (const text of accepted) {
      for (let i = 0; i < 20; i++) {
        const bytes = [...Buffer.from(text)]
        const at = Math.floor(next() * (bytes.length + 1))
        const other = Math.floor(next() * 128)
        bytes.splice(at, Math.floor(next() * 2), ...(next() < 0.7 ? [other] : []))
        const changed = Buffer.from(bytes)
        if (!accepts(schema, changed)) continue
        through++
        t.equal(fault(schema, JSON.parse(changed.toString())), undefined, `${JSON.stringify(schema)}: ${changed}`)
      }
    }
  }
  t.ok(through > 50, `${through} of them`)
})

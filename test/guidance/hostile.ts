/** Schemas that are wrong, too large, or made to take long: each is refused with a reason, or followed. */
import t from 'tap'
import { isEngineError } from '../../lib/errors/index.js'
import type { JsonSchema } from '../../lib/guidance/index.js'
import { begin, byteLevel } from './vocabularies.js'

const nested = (levels: number, inner: unknown, around: (schema: unknown) => unknown): JsonSchema => {
  let schema = inner
  for (let i = 0; i < levels; i++) schema = around(schema)
  return schema as JsonSchema
}
const arrays = (levels: number, least = 0) => nested(levels, { type: 'null' }, (items) => ({ items, minItems: least }))
const string = (pattern: unknown, more = {}): JsonSchema => ({ type: 'string', pattern, ...more })
const many = <T>(count: number, make: (i: number) => T): T[] => Array.from({ length: count }, (_, i) => make(i))
const ones = (count: number) => '1'.repeat(count)
/** An object that has a member of one value, which is an object itself. */
const marked = (members: [string, number][]) => ({
  type: 'object',
  properties: { kind: { const: Object.fromEntries(members) } },
  required: ['kind']
})
const circle: Record<string, unknown> = {}
circle.self = circle

const refused: [reason: string, keyword: string | undefined, schema: unknown, path?: string][] = [
  ['invalid', undefined, { items: 5 }, '#/items'],
  ['invalid', 'type', { type: 'text' }, '#/type'],
  ['invalid', 'type', { type: [] }],
  ['invalid', 'required', { required: [1] }],
  ['invalid', 'required', { required: 'a' }],
  ['invalid', 'properties', { properties: [] }],
  ['invalid', 'minLength', { minLength: -1 }, '#/minLength'],
  ['invalid', 'maxItems', { maxItems: 1.5 }],
  ['invalid', 'minimum', { minimum: '0' }],
  ['invalid', 'exclusiveMaximum', { type: 'number', maximum: 5, exclusiveMaximum: true }],
  ['invalid', 'enum', { enum: {} }],
  ['invalid', undefined, { additionalProperties: null }, '#/additionalProperties'],
  ['invalid', undefined, { items: null }, '#/items'],
  ['invalid', 'anyOf', { anyOf: [] }],
  ['invalid', 'prefixItems', { prefixItems: {} }],
  ['invalid', '$ref', { $ref: '#/$defs/none' }, '#/$ref'],
  ['invalid', '$ref', { $ref: '#/%zz' }],
  ['invalid', '$ref', { $ref: 5 }],
  ['invalid', undefined, { $ref: '#/$defs/a', $defs: { a: 'a' } }, '#/$defs/a'],
  ...['(', 'a)', '[a', '[z-a]', '*a', 'a**', '\\', 'a{2,1}', '{', '\\u12', '\\y', '^*', '[\\w-z]', '\\08'].map(
    (pattern): [string, string, JsonSchema, string] => ['invalid', 'pattern', string(pattern), '#/pattern']
  ),
  ...['\\u{41', '\\u{', '[\\u{41', '\\u{110000}', `a{${ones(1e6)}a}`, `a{1,${ones(1e6)}`].map(
    (pattern): [string, string, JsonSchema, string] => ['invalid', 'pattern', string(pattern), '#/pattern']
  ),
  ['invalid', 'pattern', string(7)],
  ...['(?=a)', '(?<!a)', '(?!a)b', '(a)\\1', '\\bword', '\\p{L}', '\\k<a>'].map(
    (pattern): [string, string, JsonSchema, string] => ['unsupported', 'pattern', string(pattern), '#/pattern']
  ),
  ['unsupported', 'not', { properties: { a: { not: {} } } }, '#/properties/a'],
  ['unsupported', 'if', { if: {} }],
  ['unsupported', '', { '': 1 }],
  ['unsupported', 'multipleOf', { type: 'integer', multipleOf: 3 }],
  ['unsupported', 'uniqueItems', { type: 'array', uniqueItems: true }],
  ['unsupported', 'patternProperties', { patternProperties: {} }],
  ['unsupported', '$ref', { $ref: 'https://example.org/schema' }],
  ['unsupported', 'type', { $ref: '#/$defs/a', type: 'string', $defs: { a: {} } }],
  ['unsupported', '$ref', { $ref: '#/$defs/a', $defs: { a: { $ref: '#/$defs/b' }, b: { $ref: '#/$defs/a' } } }],
  ['unsupported', '$ref', { anyOf: [{ type: 'null' }, { $ref: '#' }] }, '#'],
  [
    'unsupported',
    '$ref',
    { $defs: { a: { $id: 'a', items: { $ref: '#' } } }, $ref: '#/$defs/a' },
    '#/$defs/a/items/$ref'
  ],
  [
    'unsupported',
    '$ref',
    { $defs: { a: { $id: 'a', properties: { b: { items: { $ref: '#' } } } } }, $ref: '#/$defs/a/properties/b' },
    '#/$ref'
  ],
  ['unsupported', 'allOf', { allOf: [{}, {}] }],
  ['unsupported', 'oneOf', { oneOf: [{ type: 'integer' }, { type: 'number' }] }],
  ['unsupported', 'oneOf', { oneOf: [{ type: 'object' }, { type: 'object' }] }],
  ['unsupported', 'oneOf', { oneOf: [{ const: { a: 1, b: 2 } }, { enum: [3, { b: 2, a: 1 }] }] }],
  ['unsupported', 'oneOf', { oneOf: ['ab', 'ba'].map((names) => marked([...names].map((name) => [name, 1]))) }],
  ['unsupported', 'maxLength', { enum: ['a'], maxLength: 1 }],
  ['unsupported', 'format', { format: 'hostname' }],
  ['unsupported', 'format', { format: '__proto__' }],
  ['unsupported', 'format', string('a', { format: 'date' })],
  ['unsupported', 'items', { items: [{}] }],
  ['unsupported', 'minimum', { type: 'integer', minimum: 1e15 }, '#/minimum'],
  ['unsupported', 'exclusiveMinimum', { type: 'integer', minimum: 1, exclusiveMinimum: 999_999_999_999_999 }],
  ['unsupported', 'maximum', { type: 'number', maximum: -1e15 }],
  ['unsupported', 'exclusiveMaximum', { type: 'number', exclusiveMaximum: -999_999_999_999_999 }],
  ['unsupported', 'minimum', { anyOf: [{ type: 'null' }, { type: 'number', minimum: 1e20 }] }, '#/anyOf/1/minimum'],
  ['unsatisfiable', 'enum', { enum: [] }, '#/enum'],
  ['unsatisfiable', 'const', { type: 'string', const: 1 }],
  ['unsatisfiable', 'minLength', { minLength: 3, maxLength: 2 }, '#'],
  ['unsatisfiable', 'minItems', { minItems: 3, maxItems: 2 }],
  ['unsatisfiable', 'pattern', string('^ab$', { minLength: 5 })],
  ['unsatisfiable', 'pattern', string('a^b')],
  ['unsatisfiable', 'pattern', string('[]')],
  ['unsatisfiable', undefined, { type: 'integer', minimum: 5, maximum: 4 }],
  ['unsatisfiable', undefined, { type: 'integer', minimum: 2e15, maximum: 1e15 }],
  ['unsatisfiable', undefined, { type: 'integer', exclusiveMinimum: 4, exclusiveMaximum: 5 }],
  ['unsatisfiable', undefined, { type: 'number', exclusiveMinimum: 1, exclusiveMaximum: 1 }],
  ['unsatisfiable', undefined, { properties: { a: false }, required: ['a'] }, '#/properties/a'],
  ['unsatisfiable', undefined, { required: ['a'], additionalProperties: false }],
  ['unsatisfiable', undefined, { properties: { next: { $ref: '#' } }, required: ['next'] }],
  ['too_large', undefined, arrays(65, 1)],
  ['too_large', undefined, arrays(300)],
  ['too_large', undefined, nested(300, {}, (schema) => ({ anyOf: [schema] }))],
  ['too_large', undefined, circle],
  ['too_large', undefined, { oneOf: [{ const: nested(5000, 1, (inner) => [inner] as never) }, { type: 'null' }] }],
  ['too_large', undefined, nested(60, {}, (schema) => ({ anyOf: [schema, { items: schema }] }))],
  ['too_large', undefined, { description: 'x'.repeat(2 ** 20) }],
  ['too_large', undefined, { enum: Array.from({ length: 60_000 }, (_, i) => `${i * 7919}`) }],
  ['too_large', 'oneOf', { oneOf: many(501, (i) => ({ const: i })) }],
  ['too_large', 'oneOf', { oneOf: many(500, (i) => ({ enum: many(40, (j) => i * 40 + j) })) }],
  ['too_large', 'oneOf', { anyOf: many(20, () => ({ oneOf: many(490, (i) => ({ const: i })) })) }],
  ['too_large', 'pattern', string('(a|b)*a(a|b){12}')],
  ['too_large', 'pattern', string('((a{100}){100}){100}')],
  ['too_large', 'pattern', string('(a{0,999}){0,999}')],
  ['too_large', 'pattern', string('a{1001}')],
  ['too_large', 'pattern', string(`a{1,${ones(400)}}`)],
  ['too_large', 'pattern', string(`a{${ones(400)},}`)],
  ['too_large', 'pattern', string(`${'('.repeat(70)}a${')'.repeat(70)}`)],
  ['too_large', 'pattern', string('^\\w+@\\w+$', { maxLength: 100_000 })]
]

t.test('refused: where, why and by which keyword', async (t) => {
  for (const [i, [reason, keyword, schema, path]] of refused.entries()) {
    let error: unknown
    try {
      begin(schema as JsonSchema)
    } catch (thrown) {
      error = thrown
    }
    const text = `${i}: ${reason} ${keyword} ${path ?? ''}`
    if (!isEngineError(error)) t.fail(`${text}: ${error}`)
    else {
      const { code, details } = error
      t.match({ code, ...details }, { code: 'GUIDANCE_SCHEMA_UNSUPPORTED', reason }, text)
      t.equal(details.keyword, keyword, text)
      if (path) t.equal(details.path, path, text)
    }
  }
})

const pair = (a: string, b: string) => ({
  anyOf: [a, b].map((name) => ({ type: 'array', items: { $ref: `#/$defs/${name}` } }))
})

const followed: Record<string, [schema: JsonSchema, begins: string]> = {
  'many schemas that exclude each other by one of many members': [
    {
      oneOf: many(400, (i) => ({
        type: 'object',
        properties: { a: {}, kind: { enum: [`k${i}`, `l${i}`] }, b: { const: 1 } },
        required: ['a', 'kind', 'b']
      }))
    },
    '{"a":1,"kind":"k'
  ],
  'many choices of anything': [{ anyOf: many(45_000, () => ({})) }, '[1,'],
  // Each of the texts is longer than the one before it in depth, so the choice is found to need less again and again.
  'a choice whose least depth is found late': [
    {
      anyOf: many(40_000, () => ({ $ref: '#/$defs/a' })),
      $defs: {
        a: {
          anyOf: many(40, (i) => nested(i, { const: 'a'.repeat(10 * (40 - i)) }, (items) => ({ items, minItems: 1 })))
        }
      } as never
    },
    '[["aa'
  ],
  'one enum in many choices': [
    {
      anyOf: many(2000, () => ({ oneOf: [{ $ref: '#/$defs/a' }, { type: 'null' }] })),
      $defs: { a: { enum: many(20_000, (i) => `${i}`) } } as never
    },
    '"1'
  ],
  'an $id that no reference is under': [{ $id: 'a', properties: { a: { $id: 'b', type: 'null' } } }, '{"a":n'],
  'a large enum': [{ enum: many(10_000, (i) => `${i * 7919}`) }, '"7919'],
  'many properties, none of them needed': [
    { properties: Object.fromEntries(many(3000, (i) => [`p${i}`, { type: 'null' }])) },
    '{"p'
  ],
  'many patterns at once': [{ anyOf: many(300, (i) => string(`^[a-z]*${i}x?$`)) }, '"abc1'],
  'a choice in a choice in a choice': [
    {
      $ref: '#/$defs/0',
      $defs: many(60, (i) =>
        i < 59 ? { anyOf: [{ $ref: `#/$defs/${i + 1}` }, { items: { $ref: `#/$defs/${i + 1}` } }] } : {}
      ) as never
    },
    '[[['
  ],
  'two readings at each level': [
    { $ref: '#/$defs/a', $defs: { a: pair('a', 'b'), b: pair('b', 'a') } },
    '['.repeat(40)
  ],
  'a pattern that backtracks elsewhere': [string('^(a+)+$'), `"${'a'.repeat(200)}`],
  'a thousand million items': [{ items: {}, minItems: 1e9 }, '[1,2,'],
  'a string of a thousand million characters': [{ type: 'string', minLength: 1e9, maxLength: 2e9 }, '"abc'],
  'names of the language': [
    JSON.parse('{"properties":{"__proto__":{"const":1},"constructor":{"const":2}},"required":["__proto__"]}'),
    '{"__proto__":'
  ],
  'a wide range of numbers': [{ type: 'number', minimum: -1e300, exclusiveMaximum: 5e-324 }, '-0.'],
  'long references': [
    { $ref: '#/$defs/0', $defs: many(100, (i) => (i < 99 ? { items: { $ref: `#/$defs/${i + 1}` } } : {})) as never },
    '[['
  ]
}

t.test('followed', async (t) => {
  for (const [name, [schema, begins]] of Object.entries(followed)) {
    const began = performance.now()
    const state = begin(schema, byteLevel)
    for (const token of byteLevel.encode(begins, { addSpecial: false })) {
      t.ok(state.mask(), name)
      t.ok(state.accept(token), `${name}: ${JSON.stringify(byteLevel.decode([token]))}`)
    }
    t.ok(state.mask(), `${name}: and on`)
    t.comment(`${name}: ${(performance.now() - began).toFixed(1)} ms`)
  }
})

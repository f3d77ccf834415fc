/** Random schemas of everything that is supported. */

type Next = () => number
type Schema = Record<string, unknown>

const names = ['a', 'name', 'né"w', 'a\\b', '漢', 'x y', '', 'nam']
const patterns = [
  '^[a-c]{1,3}$',
  'ab+c',
  '^(\\d{2}-)*\\w$',
  '[^a-z"]',
  '^\\u{1f600}?\\n?x$',
  'a|^b|c$',
  '^.{2,5}$',
  '^$'
]
const constants = [1, -2.5, 'one', 'o"ne', null, true, [1, 'a'], { k: [] }, 'オ']

/** A schema of at most so many levels. */
export function randomSchema(next: Next, depth = 3): Schema {
  const pick = <T>(values: readonly T[]): T => values[Math.floor(next() * values.length)]!
  const whole = (least: number, most: number): number => least + Math.floor(next() * (most - least + 1))
  const maybe = (value: Schema): Schema => (next() < 0.5 ? value : {})
  const bounds = (low: string, high: string, least: number, most: number): Schema => {
    const from = whole(least, most)
    return { ...maybe({ [low]: from }), ...maybe({ [high]: whole(from, most) }) }
  }

  const scalar = (): Schema =>
    pick<() => Schema>([
      () => ({ type: 'string', ...bounds('minLength', 'maxLength', 0, 6) }),
      () => ({ type: 'string', pattern: pick(patterns) }),
      () => ({ type: 'string', format: pick(['date', 'time', 'date-time', 'uuid', 'ipv4']) }),
      () => ({ type: 'integer', ...bounds('minimum', 'maximum', -300, 2000) }),
      () => ({ type: 'integer', exclusiveMinimum: whole(-5, 0), maximum: whole(1, 9), exclusiveMaximum: 7.5 }),
      () => ({ type: 'number', ...maybe({ minimum: whole(-50, 50) / 4 }), exclusiveMaximum: whole(51, 500) / 4 }),
      () => ({ type: 'number', exclusiveMinimum: whole(-9, 9) / 8, ...maybe({ maximum: whole(10, 1000) / 8 }) }),
      () => ({ type: 'number', ...pick([{ exclusiveMaximum: 0 }, { minimum: -(10 ** whole(12, 120)) }]) }),
      () => ({ type: pick(['number', 'boolean', 'null', 'integer']) }),
      () => ({ enum: Array.from({ length: whole(1, 4) }, () => pick(constants)) }),
      () => ({ const: pick(constants) }),
      () => ({ type: ['string', 'integer', 'null'], maxLength: 3, maximum: 9 })
    ])()

  const inner = (left: number): Schema => {
    if (left === 0) return scalar()
    return pick<() => Schema>([
      scalar,
      () => {
        const own = names.filter(() => next() < 0.4)
        return {
          type: 'object',
          properties: Object.fromEntries(own.map((name) => [name, inner(left - 1)])),
          required: own.filter(() => next() < 0.5),
          ...maybe({ additionalProperties: pick([false, true, scalar()]) })
        }
      },
      () => ({ type: 'array', items: inner(left - 1), ...bounds('minItems', 'maxItems', 0, 3) }),
      () => ({
        type: 'array',
        prefixItems: [inner(left - 1), scalar()],
        items: pick<unknown>([false, scalar()]),
        ...maybe({ minItems: whole(0, 2) })
      }),
      () => ({ anyOf: [inner(left - 1), inner(left - 1)] }),
      () => ({
        oneOf: [
          { type: 'string', maxLength: 4 },
          { type: 'array', items: inner(left - 1), maxItems: 2 }
        ]
      }),
      () => ({ $ref: pick(['#/$defs/list', '#/$defs/tree']) })
    ])()
  }

  return {
    ...inner(depth),
    $defs: {
      list: {
        type: 'object',
        properties: { head: scalar(), tail: { anyOf: [{ type: 'null' }, { $ref: '#/$defs/list' }] } },
        required: ['head', 'tail'],
        additionalProperties: false
      },
      tree: { type: 'array', items: { $ref: '#/$defs/tree' }, maxItems: 2 }
    }
  }
}

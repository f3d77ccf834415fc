/** Whether a value is what a JSON schema accepts: written from the specification (2020-12), of what lib/guidance supports. */

type Schema = Record<string, unknown>

const equal = (a: unknown, b: unknown): boolean => JSON.stringify(sorted(a)) === JSON.stringify(sorted(b))

function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([key, own]) => [key, sorted(own)])
  )
}

const types: Record<string, (value: unknown) => boolean> = {
  object: (value) => typeof value === 'object' && value !== null && !Array.isArray(value),
  array: Array.isArray,
  string: (value) => typeof value === 'string',
  number: (value) => typeof value === 'number' && Number.isFinite(value),
  integer: Number.isInteger,
  boolean: (value) => typeof value === 'boolean',
  null: (value) => value === null
}

const isDay = (text: string): boolean => {
  const [year, month, day] = text.split('-').map(Number) as [number, number, number]
  const date = new Date(Date.UTC(2000, month - 1, day))
  date.setUTCFullYear(year, month - 1, day)
  return /^\d{4}-\d\d-\d\d$/.test(text) && date.getUTCMonth() === month - 1 && date.getUTCDate() === day
}
const isTime = (text: string): boolean => {
  const [, hour, minute, second] = /^(\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)$/.exec(text) ?? []
  return hour !== undefined && Number(hour) < 24 && Number(minute) < 60 && Number(second) < 60
}

const formats: Record<string, (text: string) => boolean> = {
  date: isDay,
  time: isTime,
  'date-time': (text) => text[10] === 'T' && isDay(text.slice(0, 10)) && isTime(text.slice(11)),
  uuid: (text) => /^[\da-f]{8}-[\da-f]{4}-[\da-f]{4}-[\da-f]{4}-[\da-f]{12}$/i.test(text),
  ipv4: (text) =>
    text.split('.').length === 4 && text.split('.').every((part) => String(Number(part)) === part && +part < 256)
}

/** What is wrong with a value, or undefined. */
export function fault(root: unknown, value: unknown, schema: unknown = root, at = '#'): string | undefined {
  if (schema === true) return undefined
  if (schema === false) return `${at}: nothing is accepted`
  const own = schema as Schema
  const wrong = (keyword: string): string =>
    `${at}: ${keyword} ${JSON.stringify(own[keyword])}, ${JSON.stringify(value)}`
  const number = (keyword: string): number => own[keyword] as number
  if (typeof own.$ref === 'string') {
    let target = root
    for (const part of own.$ref.split('/').slice(1)) {
      target = (target as Schema)[decodeURIComponent(part).replaceAll('~1', '/').replaceAll('~0', '~')]
    }
    return fault(root, value, target, at)
  }
  if (own.type !== undefined && ![own.type].flat().some((type) => types[type as string]!(value))) return wrong('type')
  if (own.enum && !(own.enum as unknown[]).some((one) => equal(one, value))) return wrong('enum')
  if ('const' in own && !equal(own.const, value)) return wrong('const')
  for (const [keyword, fits] of [
    ['anyOf', (count: number) => count > 0],
    ['oneOf', (count: number) => count === 1],
    ['allOf', (count: number, all: number) => count === all]
  ] as const) {
    const list = own[keyword] as unknown[] | undefined
    if (!list) continue
    const met = list.filter((each) => fault(root, value, each, at) === undefined).length
    if (!fits(met, list.length)) return wrong(keyword)
  }
  if (typeof value === 'string') {
    const length = [...value].length
    if (length < number('minLength')) return wrong('minLength')
    if (length > number('maxLength')) return wrong('maxLength')
    if (own.pattern !== undefined && !new RegExp(own.pattern as string, 'u').test(value)) return wrong('pattern')
    if (own.format !== undefined && !formats[own.format as string]!(value)) return wrong('format')
  }
  if (typeof value === 'number') {
    if (value < number('minimum')) return wrong('minimum')
    if (value > number('maximum')) return wrong('maximum')
    if (value <= number('exclusiveMinimum')) return wrong('exclusiveMinimum')
    if (value >= number('exclusiveMaximum')) return wrong('exclusiveMaximum')
  }
  if (Array.isArray(value)) {
    if (value.length < number('minItems')) return wrong('minItems')
    if (value.length > number('maxItems')) return wrong('maxItems')
    const first = (own.prefixItems as unknown[] | undefined) ?? []
    for (const [i, item] of value.entries()) {
      const found = fault(root, item, i < first.length ? first[i] : (own.items ?? true), `${at}/${i}`)
      if (found) return found
    }
  } else if (types.object!(value)) {
    const members = value as Schema
    const properties = (own.properties as Schema | undefined) ?? {}
    for (const name of (own.required as string[] | undefined) ?? []) {
      if (!Object.hasOwn(members, name)) return `${at}: no ${name}`
    }
    for (const [name, member] of Object.entries(members)) {
      const of = Object.hasOwn(properties, name) ? properties[name] : (own.additionalProperties ?? true)
      const found = fault(root, member, of, `${at}/${name}`)
      if (found) return found
    }
  }
  return undefined
}

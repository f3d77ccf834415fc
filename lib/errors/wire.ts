/** camelCase details to the snake_case of the wire and of logs, and back. */

export const snakeCase = (key: string): string =>
  /[A-Z]/.test(key) ? key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`) : key
export const camelCase = (key: string): string => key.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())

/** Levels of details that are kept. JSON of a stranger may have so many that writing it would overflow the stack. */
const mostLevels = 100

/** A copy with every key of plain objects in snake_case; typed arrays become arrays; cycles, functions and what is too deep are dropped. */
export function toSnakeCase(value: unknown, parents: readonly object[] = []): unknown {
  if (typeof value === 'bigint') return value.toString()
  if (typeof value === 'function' || typeof value === 'symbol') return undefined
  if (typeof value !== 'object' || value === null) return value
  if (parents.length > mostLevels || parents.includes(value)) return undefined
  const path = [...parents, value]
  if (value instanceof Error) return value.message
  if (ArrayBuffer.isView(value)) return Array.from(value as Uint8Array, (item) => toSnakeCase(item))
  if (Array.isArray(value)) return value.map((item) => toSnakeCase(item, path))
  // Not by assignment: a key may be __proto__.
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [snakeCase(key), toSnakeCase(item, path)]))
}

/** A copy of what came as JSON with every key in camelCase: what `toSnakeCase` made, where its keys were in camelCase. What is too deep is dropped. */
export function toCamelCase(value: unknown, level = 0): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (level > mostLevels) return undefined
  if (Array.isArray(value)) return value.map((item) => toCamelCase(item, level + 1))
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [camelCase(key), toCamelCase(item, level + 1)]))
}

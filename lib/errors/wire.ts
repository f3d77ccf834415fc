/** camelCase details to the snake_case of the wire and of logs. */

const snakeCase = (key: string): string => key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

/** A copy with every key of plain objects in snake_case; typed arrays become arrays, cycles and functions are dropped. */
export function toSnakeCase(value: unknown, parents: readonly object[] = []): unknown {
  if (typeof value === 'bigint') return value.toString()
  if (typeof value === 'function' || typeof value === 'symbol') return undefined
  if (typeof value !== 'object' || value === null) return value
  if (parents.includes(value)) return undefined
  const path = [...parents, value]
  if (value instanceof Error) return value.message
  if (ArrayBuffer.isView(value)) return Array.from(value as Uint8Array)
  if (Array.isArray(value)) return value.map((item) => toSnakeCase(item, path))
  const result: Record<string, unknown> = {}
  for (const [key, item] of Object.entries(value)) result[snakeCase(key)] = toSnakeCase(item, path)
  return result
}

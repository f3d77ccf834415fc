/** Errors that came over a wire, as errors again. */
import type { ErrorCode } from './catalog.js'
import { catalog } from './catalog.js'
import { errorOf } from './derived-errors.js'
import { engineCodeOf } from './engine-codes.js'
import type { ErrorDetails } from './engine-error.js'
import { EngineError } from './engine-error.js'
import { toCamelCase } from './wire.js'

type Fields = Readonly<Record<string, unknown>>

/** An error that says that it is its own cause is cut off here. */
const deepest = 4

const fieldsOf = (value: unknown): Fields | undefined =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : undefined

const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined)

const isCode = (value: unknown): value is ErrorCode => typeof value === 'string' && Object.hasOwn(catalog, value)

/**
 * The error of what `toJSON()` gave, or of a JSON-RPC error or an HTTP body {error} around that: its class, code, message, details in camelCase,
 * the text of its cause and its time. Anything else is UNKNOWN_ERROR {source}, with it as the cause: that decides whether it is retried.
 * `source` says where it came from.
 */
export function errorFromWire(wire: unknown, source = 'wire'): EngineError {
  let fields = fieldsOf(wire)
  for (let depth = 0; fields && !isCode(fields.code) && depth < deepest; depth++) {
    const inner: Fields | undefined = fieldsOf(fields.data) ?? fieldsOf(fields.error)
    if (!inner) break
    fields = inner
  }
  const code = fields?.code
  if (!fields || !isCode(code)) return unknownError(fields ?? wire, source)
  const details = fieldsOf(toCamelCase(fields.details)) ?? {}
  const timestamp = text(fields.timestamp)
  const options = {
    ...(fields.cause !== undefined && { cause: fields.cause }),
    ...(timestamp !== undefined && { timestamp })
  }
  return errorOf(code, text(fields.message) ?? code, details as ErrorDetails, options)
}

function unknownError(wire: unknown, source: string): EngineError {
  const fields = fieldsOf(wire)
  const message = text(fields?.message) ?? `${source}: an error of unknown form`
  const code = fields?.code
  const name = engineCodeOf(wire)
  const details = {
    source,
    ...((typeof code === 'string' || typeof code === 'number') && { foreignCode: code }),
    ...(name !== undefined && { foreignEngineCode: name })
  }
  return new EngineError('UNKNOWN_ERROR', message, details, { cause: wire })
}

/** The last failures of a server, for whoever looks at it: what happened, how often, and what to do. Nothing that users wrote is in it. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { ErrorCategory, ErrorCode, ErrorSeverity } from '../errors/catalog.js'
import type { EngineError } from '../errors/index.js'
import { loggedDetails, loggedMessage } from '../telemetry/redaction.js'

/** Failures of one code and one model; message, details and request are those of the last. */
export interface RecentError {
  code: ErrorCode
  category: ErrorCategory
  severity: ErrorSeverity
  httpStatus: number
  retryable: boolean
  /** Someone who runs the machine has to do something. */
  operator: boolean
  message: string
  suggestedAction: string
  /** Numbers and short texts. */
  details: Record<string, string | number | boolean | null>
  model: string | null
  requestId: string | null
  count: number
  /** ISO 8601. */
  firstAt: string
  lastAt: string
}

/** Kinds of failure that are remembered, and characters of a text of their details and of their message. */
const [mostErrors, mostCharacters, longestMessage] = [20, 200, 1000]

const textOf = (value: unknown): string | null => (typeof value === 'string' ? value : null)

/** What of an error's details is short: texts are cut, lists and buffers are left out, of a resource its figures stay. */
function shortDetails(error: EngineError): RecentError['details'] {
  const { suggestedAction, model, requestId, resourceInfo, ...rest } = loggedDetails(error.details)
  const short: RecentError['details'] = {}
  for (const [key, value] of Object.entries({ ...rest, ...(resourceInfo as object | undefined) })) {
    if (typeof value === 'string') short[key] = value.slice(0, mostCharacters)
    else if (typeof value === 'number' || typeof value === 'boolean') short[key] = value
  }
  return short
}

/** What a client itself aborted, and connections that browsers keep ready and do not use. */
const isHarmless = ({ code, details }: EngineError): boolean =>
  code === 'CANCELLED' || (code === 'REQUEST_TIMEOUT' && details.phase === 'idle')

interface Kind {
  last: EngineError
  model: string | null
  count: number
  firstAt: string
}

function recentError({ last, model, count, firstAt }: Kind): RecentError {
  const { code, category, severity, httpStatus, retryable, timestamp, details, entry } = last
  return {
    code,
    category,
    severity,
    httpStatus,
    retryable,
    operator: entry.operator,
    message: loggedMessage(last.message, details).slice(0, longestMessage),
    suggestedAction: details.suggestedAction,
    details: shortDetails(last),
    model,
    requestId: textOf(details.requestId),
    count,
    firstAt,
    lastAt: timestamp
  }
}

export class RecentErrors {
  /** By code and model, the one that happened last at the end. */
  readonly #kinds = new Map<string, Kind>()
  /** The same error is answered, and was made before that. */
  readonly #seen = new WeakSet<EngineError>()
  readonly #heard = (message: unknown): void => {
    const { error } = message as { error: EngineError }
    const { scope, logLevel } = error.entry
    // Of requests those count that somebody was answered: what was tried again, or is how a part asks for another, is no failure.
    if (scope !== 'request' && logLevel === 'error') this.add(error)
  }

  /** Also takes what goes wrong with a model, an engine or this process, whoever is told of it. Until `close`. */
  listen(): void {
    subscribe('tiered-moe:error', this.#heard)
  }

  close(): void {
    unsubscribe('tiered-moe:error', this.#heard)
  }

  /** An error that a client got. */
  add(error: EngineError): void {
    if (isHarmless(error) || this.#seen.has(error)) return
    this.#seen.add(error)
    const { code, timestamp, details } = error
    // A name that somebody made up is no model's: with some of them all that is remembered could be pushed out.
    const model = code === 'MODEL_NOT_LOADED' ? null : textOf(details.model)
    const key = `${code} ${model}`
    const { count, firstAt } = this.#kinds.get(key) ?? { count: 0, firstAt: timestamp }
    this.#kinds.delete(key)
    this.#kinds.set(key, { last: error, model, count: count + 1, firstAt })
    const [oldest] = this.#kinds.keys()
    if (this.#kinds.size > mostErrors) this.#kinds.delete(oldest!)
  }

  /** The last one first. */
  list(): RecentError[] {
    return [...this.#kinds.values()].reverse().map(recentError)
  }
}

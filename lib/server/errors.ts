/** Failures as replies: the status, the headers and the body of each come from the catalogue. */
import type { FastifyError, FastifyRequest } from 'fastify'
import type { EngineError, HttpClass } from '../errors/index.js'
import { createError, httpClasses, isEngineError, messageOf } from '../errors/index.js'
import { snakeCase, toSnakeCase } from '../errors/wire.js'
import { validationError } from '../validation.js'

export interface ErrorBody {
  error: {
    message: string
    type: HttpClass
    /** The field of the request, where one is wrong. */
    param: string | null
    code: string
    engine_code: string
    category: string
    severity: string
    retryable: boolean
    details: Record<string, unknown>
    request_id: string | null
    timestamp: string
  }
}

/** Seconds that a client is told to wait where nobody knows how long. Source: SEEDS 1.7. */
const unknownWait = 30
/** Seconds that a program may wait by itself. */
const longestWait = 60

export const jsonType = 'application/json; charset=utf-8'

export function errorBody(error: EngineError, requestId: string | null): ErrorBody {
  const { message, code, engineCode, category, severity, retryable, details, timestamp } = error
  const { path } = details
  return {
    error: {
      message,
      type: httpClasses[error.httpStatus as keyof typeof httpClasses],
      param: error.httpStatus === 400 && typeof path === 'string' ? snakeCase(path) : null,
      code,
      engine_code: engineCode,
      category,
      severity,
      retryable,
      details: toSnakeCase(details) as Record<string, unknown>,
      request_id: requestId,
      timestamp
    }
  }
}

/** `x-should-retry` is what the `openai` client goes by, before its own rule: it would wait for an hour if it was told to. */
export function errorHeaders(error: EngineError): Record<string, string> {
  const seconds = error.details.retryAfterSeconds ?? unknownWait
  const headers: Record<string, string> = { 'x-should-retry': String(error.retryable && seconds <= longestWait) }
  if (error.httpStatus === 429 || error.httpStatus === 503) {
    headers['retry-after'] = String(Math.ceil(seconds))
    headers['retry-after-ms'] = String(Math.ceil(seconds * 1000))
  }
  if (error.httpStatus === 401) headers['www-authenticate'] = 'Bearer'
  return headers
}

/** Anything that was thrown while a request was read or answered, as a typed error. */
export function asEngineError(error: unknown, request: FastifyRequest, bodyLimit: number): EngineError {
  if (isEngineError(error)) return error
  const { code = '', statusCode = 500, message } = error as FastifyError
  if (code === 'ECONNRESET')
    return createError('CANCELLED', 'the client has closed the connection', {}, { cause: error })
  if (code === 'FST_ERR_CTP_BODY_TOO_LARGE') {
    const stated = Number(request.headers['content-length'])
    const bytes = Number.isFinite(stated) ? stated : null
    const found = bytes === null ? `more than ${bodyLimit}` : bytes
    return createError('REQUEST_TOO_LARGE', `the body has ${found} bytes, of ${bodyLimit} allowed`, {
      bytes,
      limit: bodyLimit
    })
  }
  if (code === 'FST_ERR_CTP_INVALID_MEDIA_TYPE') {
    return validationError('the request', 'content-type', request.headers['content-type'], 'application/json')
  }
  if (statusCode >= 400 && statusCode < 500) {
    const source = code === 'FST_ERR_BAD_URL' ? 'url' : 'body'
    const details = { source, reason: message }
    return createError('REQUEST_PARSE_FAILED', `the ${source} cannot be read: ${message}`, details, { cause: error })
  }
  return createError('RUNTIME_INVARIANT_VIOLATED', `unexpected: ${messageOf(error)}`, {}, { cause: error })
}

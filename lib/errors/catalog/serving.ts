/** Failures of serving many callers: what may not be asked, what they ask for at once, and calls that do not come back in time. */
import type { CatalogEntry } from './entry.js'
import { deadline, operators, request } from './entry.js'

/** Who asks, or how, is wrong: the same again is refused again. */
const asking = { ...request, category: 'configuration', exitCode: 1, native: false } as const

export const serving = {
  REQUEST_PARSE_FAILED: {
    ...asking,
    meaning:
      'What came cannot be read: the head, the address or the body of an HTTP request, or a message of JSON-RPC.',
    httpStatus: 400,
    engineCode: 'ParseError',
    details: ['source', 'reason'],
    suggestedAction:
      'Send one JSON value in UTF-8 to an address whose escapes are whole; details.reason says what is broken.'
  },
  NOT_FOUND: {
    ...asking,
    meaning: 'There is no such address or method.',
    httpStatus: 404,
    engineCode: 'MethodNotFound',
    details: ['method', 'path'],
    suggestedAction: 'See docs/server.md for the addresses, and details.allow for the methods of this one.'
  },
  UNAUTHORIZED: {
    ...asking,
    meaning: 'The request has no key, or none that the server knows.',
    httpStatus: 401,
    engineCode: 'InvalidRequest',
    details: ['reason'],
    suggestedAction:
      'Send the header `authorization: Bearer KEY` with a key of the server; details.reason says what is wrong.'
  },
  AUTH_TOKEN_EXPIRED: {
    ...asking,
    meaning: 'The key, or the signed address, was good once.',
    operator: true,
    httpStatus: 401,
    engineCode: 'InvalidRequest',
    details: ['keyId|target'],
    suggestedAction: 'Get a new key or address. A download goes on where it was: what has come is kept.'
  },
  FORBIDDEN: {
    ...asking,
    meaning: 'Who asks is known, and may not do this.',
    httpStatus: 403,
    engineCode: 'InvalidRequest',
    details: ['keyId', 'need'],
    suggestedAction: 'Use a key that may do it; details.need says what it takes.'
  },
  REQUEST_TOO_LARGE: {
    ...asking,
    meaning: 'The body of a request has more bytes than the server takes.',
    httpStatus: 413,
    engineCode: 'InvalidRequest',
    details: ['bytes', 'limit'],
    suggestedAction: 'Send less, or raise `server.limits.body_bytes`; details.limit is what it is.'
  },
  REQUEST_TIMEOUT: {
    ...asking,
    meaning: 'A client did not send its request in time; its connection is closed.',
    logLevel: 'info',
    httpStatus: 408,
    engineCode: 'InvalidRequest',
    details: ['phase', 'limitMs'],
    suggestedAction: 'Send the whole request at once; details.phase says what the server waited for.'
  },
  PORT_IN_USE: {
    ...operators,
    meaning: 'No port that the server may listen on is free.',
    category: 'resource',
    scope: 'process',
    httpStatus: 503,
    details: ['tried', 'bound'],
    suggestedAction:
      'Stop what listens there, give another port, or let the next free one be taken: `--port-tries 10`.',
    native: false
  },
  RATE_LIMITED: {
    ...request,
    meaning: 'One client asks for more than a client may: requests or tokens in a minute, or requests at a time.',
    category: 'resource',
    retry: 'after',
    httpStatus: 429,
    exitCode: 1,
    engineCode: 'ServerError',
    details: ['reason', 'current', 'limit', 'retryAfterSeconds'],
    suggestedAction:
      'Try again after details.retryAfterSeconds; details.reason says which limit it was, details.limit how much it is.',
    native: false
  },
  SERVICE_UNAVAILABLE: {
    ...request,
    meaning: 'There is no room for one more request now: in the queue, in memory, or before its deadline.',
    category: 'resource',
    retry: 'after',
    httpStatus: 503,
    exitCode: 1,
    engineCode: 'ServerError',
    details: ['reason', 'current', 'limit', 'retryAfterSeconds'],
    suggestedAction: 'Try again after details.retryAfterSeconds; details.reason says what there is too little of.',
    native: false
  },
  CALL_TIMEOUT: {
    ...deadline,
    meaning: 'A call that gives one answer did not end within its deadline.',
    suggestedAction:
      'Raise the deadline of details.method, or find out what holds it up; details.duration has what passed.'
  },
  UNKNOWN_ERROR: {
    ...request,
    meaning: 'An error came from elsewhere in a form, or with a code, that this version does not know.',
    category: 'runtime',
    retry: 'inherit',
    logLevel: 'error',
    httpStatus: 500,
    exitCode: 1,
    engineCode: 'UnknownError',
    details: ['source'],
    suggestedAction: 'Look at the cause, which is what came; details.source says from where.',
    native: false
  }
} as const satisfies Record<string, CatalogEntry>

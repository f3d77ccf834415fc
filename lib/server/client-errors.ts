/** Clients that HTTP itself gives up: too slow, too large, not HTTP. They get the error as a reply, and the connection ends. */
import type { Server } from 'node:http'
import { maxHeaderSize, STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { EngineError } from '../errors/index.js'
import { createError } from '../errors/index.js'
import type { Connections } from './connections.js'
import { errorBody, errorHeaders, jsonType } from './errors.js'
import type { CheckedServer } from './settings.js'

/** `tell` gets each of the errors. */
export function answerClientErrors(
  server: Server,
  connections: Connections,
  { headerMs, bodyMs }: CheckedServer['limits'],
  tell: (error: EngineError) => void
): void {
  server.on('clientError', (cause: NodeJS.ErrnoException, socket: Socket) => {
    const owed = connections.owed(socket)
    // An error in the middle of a reply would look like a part of it.
    if (cause.code === 'ECONNRESET' || !socket.writable || owed[0]?.headersSent) {
      socket.destroy()
      return
    }
    const limits = { headers: headerMs, idle: headerMs, body: headerMs + bodyMs }
    const inBody = owed.at(-1)?.req.complete === false
    const phase = inBody ? 'body' : socket.bytesRead === 0 ? 'idle' : 'headers'
    const error = errorOf(cause, phase, limits[phase])
    // Of a client that has gone nobody has to hear.
    if (cause.code !== 'HPE_INVALID_EOF_STATE') tell(error)
    const body = JSON.stringify(errorBody(error, null))
    const headers = { ...errorHeaders(error), 'content-type': jsonType, connection: 'close' }
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
    const { httpStatus } = error
    const head = `HTTP/1.1 ${httpStatus} ${STATUS_CODES[httpStatus]}\r\n${lines.join('')}content-length: ${Buffer.byteLength(body)}`
    socket.end(`${head}\r\n\r\n${body}`, () => socket.destroy())
  })
}

function errorOf(cause: NodeJS.ErrnoException, phase: 'headers' | 'idle' | 'body', limitMs: number): EngineError {
  if (cause.code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    const what = { headers: 'the head of its request', idle: 'a request', body: 'the body of its request' }[phase]
    return createError('REQUEST_TIMEOUT', `a client did not send ${what} within ${limitMs} ms`, { phase, limitMs })
  }
  if (cause.code === 'HPE_HEADER_OVERFLOW') {
    const text = 'the head of a request is larger than the server takes'
    return createError('REQUEST_TOO_LARGE', text, { bytes: null, limit: maxHeaderSize })
  }
  const reason = cause.code ?? cause.message
  return createError('REQUEST_PARSE_FAILED', `what came is not HTTP: ${reason}`, { source: 'head', reason })
}

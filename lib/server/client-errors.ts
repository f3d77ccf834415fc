/** Clients that HTTP itself gives up: too slow, too large, not HTTP. They get the error as a reply, and the connection ends. */
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { EngineError } from '../errors/index.js'
import { createError } from '../errors/index.js'
import { errorBody, errorHeaders } from './errors.js'
import type { CheckedServer } from './settings.js'

/** `tell` gets each of the errors. */
export function answerClientErrors(
  server: Server,
  { headerMs, bodyMs }: CheckedServer['limits'],
  tell: (error: EngineError) => void
): void {
  const answering = new WeakMap<Socket, ServerResponse>()
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    answering.set(request.socket, response)
    request.once('end', () => answering.delete(request.socket))
  })
  server.on('clientError', (cause: NodeJS.ErrnoException, socket: Socket) => {
    const response = answering.get(socket)
    if (cause.code === 'ECONNRESET' || !socket.writable || response?.headersSent) {
      socket.destroy()
      return
    }
    const limits = { headers: headerMs, idle: headerMs, body: headerMs + bodyMs }
    const phase = response ? 'body' : socket.bytesRead === 0 ? 'idle' : 'headers'
    const error = errorOf(cause, phase, limits[phase])
    tell(error)
    const body = JSON.stringify(errorBody(error, null))
    const headers = { ...errorHeaders(error), 'content-type': 'application/json; charset=utf-8', connection: 'close' }
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
    return createError('REQUEST_TOO_LARGE', text, { bytes: null, limit: 16_384 })
  }
  const reason = cause.code ?? cause.message
  return createError('REQUEST_PARSE_FAILED', `what came is not HTTP: ${reason}`, { source: 'head', reason })
}

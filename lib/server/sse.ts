/** Server-sent events, written no faster than the client reads. */
import type { ServerResponse } from 'node:http'
import type { EngineError } from '../errors/index.js'
import { errorBody } from './errors.js'

export interface EventStreamOptions {
  headers: Readonly<Record<string, string>>
  /** Aborts when the request has ended, for whatever reason: then nobody waits for the client any more. */
  ended: AbortSignal
  /** Milliseconds in which a client has to take something of what it is sent; else its connection ends. */
  stallMs: number
}

export class EventStream {
  readonly #response: ServerResponse
  readonly #ended: AbortSignal
  readonly #stallMs: number

  /** Sends the head at once. */
  constructor(response: ServerResponse, { headers, ended, stallMs }: EventStreamOptions) {
    this.#response = response
    this.#ended = ended
    this.#stallMs = stallMs
    response.writeHead(200, {
      ...headers,
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
      // Proxies such as nginx would collect it.
      'x-accel-buffering': 'no'
    })
    response.flushHeaders()
  }

  /** Resolves when there is room for more, or the request has ended. */
  async send(data: unknown): Promise<void> {
    if (this.#write(`data: ${JSON.stringify(data)}\n\n`) || this.#ended.aborted) return
    const response = this.#response
    // None in a row of requests on one connection, before its turn.
    const { socket } = response
    socket?.setTimeout(this.#stallMs)
    await new Promise<void>((resolve) => {
      const done = (): void => {
        response.removeListener('drain', done)
        this.#ended.removeEventListener('abort', done)
        resolve()
      }
      response.once('drain', done)
      this.#ended.addEventListener('abort', done, { once: true })
    })
    socket?.setTimeout(0)
  }

  /** What clients ignore; it keeps a connection from looking dead. */
  comment(text: string): void {
    this.#write(`: ${text}\n\n`)
  }

  end(): void {
    this.#write('data: [DONE]\n\n')
    this.#response.end()
  }

  /** A chunk with `error`, without [DONE]: the `openai` client throws it where it has no event's name. */
  fail(error: EngineError, requestId: string): void {
    this.#write(`data: ${JSON.stringify(errorBody(error, requestId))}\n\n`)
    this.#response.end()
  }

  /** Whether the client keeps up, or is gone. */
  #write(text: string): boolean {
    const response = this.#response
    return response.destroyed || response.write(text)
  }
}

/** Server-sent events, written no faster than the client reads. */
import type { ServerResponse } from 'node:http'
import type { EngineError } from '../errors/index.js'
import { errorBody } from './errors.js'

export class EventStream {
  readonly #response: ServerResponse

  /** Sends the head at once. */
  constructor(response: ServerResponse, headers: Readonly<Record<string, string>>) {
    this.#response = response
    response.writeHead(200, {
      ...headers,
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
      // Proxies such as nginx would collect it.
      'x-accel-buffering': 'no'
    })
    response.flushHeaders()
  }

  send(data: unknown): Promise<void> {
    return this.#write(`data: ${JSON.stringify(data)}\n\n`)
  }

  /** What clients ignore; it keeps a connection from looking dead. */
  comment(text: string): Promise<void> {
    return this.#write(`: ${text}\n\n`)
  }

  async end(): Promise<void> {
    await this.#write('data: [DONE]\n\n')
    this.#response.end()
  }

  /** A chunk with `error`, without [DONE]: the `openai` client throws it where it has no event's name. */
  async fail(error: EngineError, requestId: string): Promise<void> {
    await this.send(errorBody(error, requestId))
    this.#response.end()
  }

  /** Resolves when there is room for more, or nobody reads any more. */
  async #write(text: string): Promise<void> {
    const response = this.#response
    if (response.destroyed || response.write(text)) return
    await new Promise<void>((resolve) => {
      const done = (): void => {
        response.removeListener('drain', done)
        response.removeListener('close', done)
        resolve()
      }
      response.once('drain', done)
      response.once('close', done)
    })
  }
}

/** What each connection still owes its client, and the end of those whose client takes nothing of it. */
import type { Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

export class Connections {
  readonly #owed = new WeakMap<Socket, ServerResponse[]>()
  #size = 0

  /** `idleMs`: in which a client has to take something of a reply that is ready. */
  constructor(server: Server, idleMs: number) {
    server.on('connection', (socket) => {
      this.#size++
      socket.once('close', () => this.#size--)
      // Several requests may wait in a row, each of which hears of the end.
      socket.setMaxListeners(0)
      this.#owed.set(socket, [])
    })
    server.on('request', (request, response) => {
      const { socket } = request
      const owed = this.owed(socket)
      owed.push(response)
      const ended = (): void => {
        owed.splice(owed.indexOf(response), 1)
      }
      response.once('prefinish', () => socket.setTimeout(idleMs))
      response.once('finish', () => {
        // Node has set the time of a connection without a request, which one that owes another reply is not.
        if (owed.at(-1) !== response) socket.setTimeout(0)
        // Of a body that nobody wanted the rest may still come.
        if (request.complete) ended()
        else request.once('end', ended)
      })
    })
  }

  /** How many are open. */
  get size(): number {
    return this.#size
  }

  /** Replies that have not ended, in the order of their requests. */
  owed(socket: Socket): ServerResponse[] {
    return this.#owed.get(socket) ?? []
  }
}

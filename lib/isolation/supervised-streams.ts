/** The streams that a worker has, over the lives of its processes: opened in the one that serves, and again in the next one where they were. */
import { isEngineError } from '../errors/index.js'
import type { EndParams, ItemParams, KeepParams } from './protocol.js'
import type { RemoteStream, StreamLink } from './remote-stream.js'
import { decodeTokens } from './tokens.js'
import type { WorkerProcess } from './worker-process.js'

/** The worker, as its streams see it. */
export interface StreamOwner {
  /** Its process, while that serves. */
  readonly serving: WorkerProcess | undefined
  /** Milliseconds that work may take to end once it was told to. */
  readonly cleanupMs: number
  /** Resolves when a process serves. Rejects where there will be none. */
  ready(): Promise<void>
  /** A stream has ended. */
  changed(): void
}

export class SupervisedStreams implements StreamLink {
  readonly #owner: StreamOwner
  readonly #streams = new Map<number, RemoteStream>()

  constructor(owner: StreamOwner) {
    this.#owner = owner
  }

  get size(): number {
    return this.#streams.size
  }

  /** The ids of their requests. */
  requests(): string[] {
    return [...this.#streams.values()].map(({ setup }) => setup.requestId)
  }

  /** Hands what a process sends of its streams to those who wait for it. */
  listen(process: WorkerProcess): void {
    process.rpc.handle('stream.item', ({ stream, from, item }: ItemParams) =>
      this.#streams.get(stream)?.receive(from, [item])
    )
    process.rpc.handle('stream.end', ({ stream, item, error }: EndParams) => {
      const own = this.#streams.get(stream)
      if (item) own?.finish(item)
      // What only its end ends goes on in the next one, or is told of its death.
      else if (!process.condemned) own?.fail(error)
    })
  }

  /** Items as bytes (tokens.ts). Throws WORKER_PROTOCOL_ERROR. */
  receive(stream: number, bytes: Buffer): void {
    const { from, items } = decodeTokens(bytes)
    this.#streams.get(stream)?.receive(from, items)
  }

  /** Opens a stream. Rejects with what opening throws; not where the process dies, which the stream outlives or is told of. */
  async open(stream: RemoteStream): Promise<void> {
    // Cancelled while it waited for its worker.
    if (stream.ended) return
    stream.link = this
    this.#streams.set(stream.setup.id, stream)
    stream.onEnd(() => this.#close(stream))
    try {
      await this.#open(stream, stream.setup.kind)
    } catch (error) {
      // Another worker may take it.
      this.#streams.delete(stream.setup.id)
      throw error
    }
  }

  /** The streams that the process before had. The new one hears of them first: an id that is free here must be free there before a request comes with it. */
  keep({ rpc }: WorkerProcess): RemoteStream[] {
    rpc.notify('stream.keep', { requests: this.requests() } satisfies KeepParams)
    return [...this.#streams.values()]
  }

  /** Opens them again. The ids of the requests that go on, or ended because they cannot. */
  async reopen(streams: readonly RemoteStream[]): Promise<string[]> {
    const left = streams.filter(({ ended }) => !ended)
    await Promise.all(left.map((stream) => this.#reopen(stream)))
    return left.map(({ setup }) => setup.requestId)
  }

  /** Ends all of them with an error. */
  fail(error: unknown): void {
    for (const stream of [...this.#streams.values()]) stream.fail(error)
  }

  credit(stream: RemoteStream, items: number): void {
    this.#owner.serving?.rpc.notify('stream.credit', { stream: stream.setup.id, items })
  }

  async cancel(stream: RemoteStream): Promise<void> {
    const { serving, cleanupMs } = this.#owner
    if (!serving) return
    // Native work that does not end has to be ended with its process.
    const late = setTimeout(() => serving.kill('killed'), cleanupMs).unref()
    await serving.rpc.call('stream.close', { stream: stream.setup.id }).catch(() => {})
    clearTimeout(late)
  }

  async accepted(stream: RemoteStream): Promise<void> {
    for (;;) {
      await this.#owner.ready()
      // Ended while no process was there, the next one does not know it.
      if (stream.failure !== undefined) throw stream.failure
      const { serving } = this.#owner
      try {
        await serving?.rpc.call('stream.accepted', { stream: stream.setup.id })
        return
      } catch (error) {
        // Where the process died, the stream is opened again, or it has ended.
        if (this.#owner.serving === serving || stream.ended) throw error
      }
    }
  }

  async #reopen(stream: RemoteStream): Promise<void> {
    try {
      await this.#open(stream, 'resume').catch(async (error: unknown) => {
        // Its process died before the request was in the journal.
        const fresh = isEngineError(error) && error.code === 'REQUEST_NOT_FOUND' && stream.untouched
        if (!fresh || stream.setup.kind !== 'create') throw error
        await this.#open(stream, 'create')
      })
    } catch (error) {
      stream.fail(error)
    }
  }

  async #open(stream: RemoteStream, kind: 'create' | 'resume'): Promise<void> {
    const { serving } = this.#owner
    if (!serving) return
    try {
      const { promptTokens } = (await serving.rpc.call('stream.open', stream.openParams(kind))) as {
        promptTokens: number
      }
      stream.opened(promptTokens)
    } catch (error) {
      // Where its process died, the streams have been told, or go on with the next one.
      if (this.#owner.serving === serving) throw error
    }
  }

  #close(stream: RemoteStream): void {
    const { id } = stream.setup
    // One that was refused here is another worker's.
    if (!this.#streams.delete(id)) return
    this.#owner.serving?.rpc.notify('stream.close', { stream: id })
    this.#owner.changed()
  }
}

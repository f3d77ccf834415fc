/** The streams of a worker: each sends as many items as the other side has room for. */
import type { LocalEngine } from '../engine/local-engine.js'
import type { LocalGenerator } from '../generation/local-generator.js'
import type { GenerationRequest } from '../generation/options.js'
import type { EndParams, ItemParams, OpenParams } from './protocol.js'
import type { RpcPeer } from './rpc.js'
import { encodeTokens, isPlain } from './tokens.js'

interface Stream {
  readonly generator: LocalGenerator
  readonly requestId: string
  credit: number
  /** Tokens sent, with those that came before a resumption. */
  position: number
  sending: boolean
  ended: boolean
}

export class WorkerStreams {
  readonly #engine: LocalEngine
  readonly #rpc: RpcPeer
  readonly #release: (requestId: string) => Promise<void>
  readonly #onChange: () => void
  readonly #streams = new Map<number, Stream>()
  /** Streams that are about to be there. */
  readonly #opening = new Map<number, Promise<LocalGenerator>>()
  /** Requests that are just leaving the journal, whose ids are about to be free. */
  readonly #leaving = new Map<string, Promise<void>>()

  /** `release`: nobody asks for a request any more whose stream has ended. `onChange`: one has ended. */
  constructor(
    engine: LocalEngine,
    rpc: RpcPeer,
    { release, onChange }: { release(requestId: string): Promise<void>; onChange(): void }
  ) {
    this.#engine = engine
    this.#rpc = rpc
    this.#release = release
    this.#onChange = onChange
  }

  get size(): number {
    return this.#streams.size
  }

  /** Throws what createGenerator and resumeGenerator do. */
  async open(params: OpenParams): Promise<{ promptTokens: number }> {
    const opening = this.#open(params)
    this.#opening.set(params.stream, opening)
    try {
      return { promptTokens: (await opening).promptTokens }
    } finally {
      this.#opening.delete(params.stream)
    }
  }

  async #open({ stream, kind, method, request, requestId, from, credit }: OpenParams): Promise<LocalGenerator> {
    await this.#leaving.get(requestId)
    const generator =
      kind === 'resume'
        ? await this.#engine.resumeGenerator({ requestId, from })
        : this.#engine.createGenerator({ ...request, requestId } as unknown as GenerationRequest, {}, method)
    const own: Stream = { generator, requestId, credit, position: from, sending: false, ended: false }
    this.#streams.set(stream, own)
    void this.#send(stream, own)
    return generator
  }

  /** The other side has room for more. */
  async credit(stream: number, items: number): Promise<void> {
    const own = await this.#opened(stream)
    if (!own) return
    own.credit += items
    void this.#send(stream, own)
  }

  async accepted(stream: number): Promise<void> {
    const own = await this.#opened(stream)
    await own?.generator.accepted()
  }

  /** The other side wants no more of the stream, or has its end. Resolves when nothing of it is computed any more. */
  async close(stream: number): Promise<void> {
    const own = await this.#opened(stream)
    if (!own) return
    own.ended = true
    await own.generator.return()
    if (!this.#streams.delete(stream)) return
    this.#onChange()
    this.#leave(own.requestId)
  }

  /** Nobody asks for the requests of the process before any more, but for these. */
  keep(requests: readonly string[]): void {
    for (const { requestId } of this.#engine.recovered.requests) {
      if (!requests.includes(requestId)) this.#leave(requestId)
    }
  }

  /** What the other side says of a stream may come while it is being opened. */
  async #opened(stream: number): Promise<Stream | undefined> {
    await this.#opening.get(stream)?.catch(() => {})
    return this.#streams.get(stream)
  }

  #leave(requestId: string): void {
    const gone = this.#release(requestId).finally(() => {
      if (this.#leaving.get(requestId) === gone) this.#leaving.delete(requestId)
    })
    this.#leaving.set(requestId, gone)
  }

  async #send(stream: number, own: Stream): Promise<void> {
    if (own.sending) return
    own.sending = true
    try {
      while (own.credit > 0 && !own.ended) {
        const { done, value } = await own.generator.next()
        if (own.ended) return
        if (done) return this.#end(own, { stream })
        if (value.finishReason !== undefined) return this.#end(own, { stream, item: value })
        const from = own.position++
        own.credit--
        if (isPlain(value)) this.#rpc.tokens(stream, encodeTokens(from, [value]))
        else {
          // Routes are copied when they are looked at.
          const routing = 'routing' in value && { routing: value.routing }
          const item = { ...value, ...routing } as ItemParams['item']
          this.#rpc.notify('stream.item', { stream, from, item } satisfies ItemParams)
        }
      }
    } catch (error) {
      if (!own.ended) this.#end(own, { stream, error })
    } finally {
      own.sending = false
    }
  }

  #end(own: Stream, end: EndParams): void {
    own.ended = true
    this.#onChange()
    this.#rpc.notify('stream.end', end)
  }
}

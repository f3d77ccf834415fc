/** The iterator that a consumer holds of a generation in another process. */
import { BaseGenerator } from '../generation/generator.js'
import type { GenerationItem } from '../generation/items.js'
import type { RemoteStream } from './remote-stream.js'

/** One that its consumer dropped without return() is ended when it is collected. */
const abandoned = new FinalizationRegistry<RemoteStream>((stream) => void stream.cancel())

export class RemoteGenerator extends BaseGenerator {
  readonly requestId: string
  readonly #stream: RemoteStream
  readonly #begin: (stream: RemoteStream) => void
  #started = false

  /** `begin` is called when the consumer asks for the first item; what it throws ends the generation. */
  constructor(stream: RemoteStream, begin: (stream: RemoteStream) => void) {
    super()
    this.requestId = stream.setup.requestId
    this.#stream = stream
    this.#begin = begin
    abandoned.register(this, stream, this)
  }

  next(): Promise<IteratorResult<GenerationItem, undefined>> {
    this.#start()
    return this.#stream.next(this)
  }

  accepted(): Promise<void> {
    this.#start()
    return this.#stream.accepted()
  }

  async return(): Promise<IteratorResult<GenerationItem, undefined>> {
    this.#started = true
    abandoned.unregister(this)
    await this.#stream.abandon()
    return { done: true, value: undefined }
  }

  #start(): void {
    if (this.#started) return
    this.#started = true
    try {
      this.#begin(this.#stream)
    } catch (error) {
      this.#stream.fail(error)
    }
  }
}

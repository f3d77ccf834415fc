/** The streams of an engine that are open: how many there may be, and that each ends. */
import { createError } from '../errors/index.js'
import { refusal } from '../resilience/admission-errors.js'

export interface StreamPlace {
  /** Gives the place back; once. */
  close(): void
}

export class StreamRegistry {
  readonly #most: number
  readonly #open = new Set<string>()

  /** `most`: streams at a time. */
  constructor(most: number) {
    this.#most = most
  }

  /**
   * A place for a request, which is to end within `timeoutMs`. SERVICE_UNAVAILABLE {reason: streams} where as many are open as may be,
   * REQUEST_ALREADY_EXISTS where one with this id is.
   */
  open(requestId: string, timeoutMs: number, onTimeout: () => void): StreamPlace {
    if (this.#open.has(requestId)) {
      const text = `a request with the id ${requestId} is running`
      throw createError('REQUEST_ALREADY_EXISTS', text, { requestId, running: true })
    }
    const current = this.#open.size
    if (current >= this.#most) {
      throw refusal('streams', { required: 1, available: 0, current, limit: this.#most }, undefined)
    }
    this.#open.add(requestId)
    const timer = setTimeout(onTimeout, timeoutMs).unref()
    return {
      close: () => {
        clearTimeout(timer)
        this.#open.delete(requestId)
      }
    }
  }
}

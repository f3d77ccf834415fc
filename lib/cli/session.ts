/**
 * One run of a command: where its output goes and what ends it early. The first Ctrl-C or SIGTERM aborts native work cleanly, the
 * second ends the process; a reader that closed standard output ends it quietly.
 */
import { type EngineError, writeFailed } from '../errors/index.js'
import { formatBytes } from './format.js'

interface Progress {
  bytesDone: number
  bytesTotal: number
}

const SIGNALS = { SIGINT: 130, SIGTERM: 143 } as const

export class Session {
  readonly #abort = new AbortController()
  readonly #listeners = new Map<string, () => void>()
  #exitCode: number | undefined
  #outputFailure: EngineError | undefined
  #progressShown = false
  #progressAt = 0

  constructor() {
    for (const [name, code] of Object.entries(SIGNALS)) {
      const listener = (): void => {
        if (this.#exitCode !== undefined) process.exit(code)
        this.#stop(code, name)
      }
      process.on(name, listener)
      this.#listeners.set(name, listener)
    }
    process.stdout.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') return this.#stop(0, 'EPIPE')
      this.#outputFailure ??= writeFailed('standard output', error)
      this.#abort.abort(this.#outputFailure)
    })
    // a closed standard error leaves nobody to tell
    process.stderr.on('error', () => {})
  }

  /** Aborted when the command has to end early. */
  get signal(): AbortSignal {
    return this.#abort.signal
  }

  /** What ended the command early, as an exit code. */
  get exitCode(): number | undefined {
    return this.#exitCode
  }

  /** FILE_WRITE_FAILED where standard output could not be written, as on a full disk; waits until what was written is there. */
  async checkOutput(): Promise<void> {
    if (!process.stdout.writableEnded) await new Promise((resolve) => process.stdout.write('', resolve))
    if (this.#outputFailure) throw this.#outputFailure
  }

  /** What standard output failed with, if it did. */
  get outputFailure(): EngineError | undefined {
    return this.#outputFailure
  }

  /** What had to end early has ended as it should. */
  endedWell(): void {
    this.#exitCode = 0
  }

  /** Leaves signals to somebody else: an engine that drains. */
  releaseSignals(): void {
    for (const [name, listener] of this.#listeners) process.removeListener(name, listener)
    this.#listeners.clear()
  }

  #stop(code: number, reason: string): void {
    this.#exitCode ??= code
    this.#abort.abort(new DOMException(`ended by ${reason}`, 'AbortError'))
  }

  /** To standard output; nothing once its reader has gone. */
  write(text: string): void {
    this.clearProgress()
    if (this.#exitCode !== 0 && !this.#outputFailure) process.stdout.write(text)
  }

  json(value: unknown): void {
    this.write(`${JSON.stringify(value)}\n`)
  }

  /** To standard error, for people and logs. */
  note(text: string): void {
    this.clearProgress()
    process.stderr.write(text)
  }

  /** A line that is rewritten in place on a terminal; nothing in a pipe. */
  readonly progress = (what: string, { bytesDone, bytesTotal }: Progress): void => {
    const now = performance.now()
    if (!process.stderr.isTTY || (now - this.#progressAt < 50 && bytesDone < bytesTotal)) return
    this.#progressAt = now
    this.#progressShown = true
    const percent = bytesTotal > 0 ? Math.floor((100 * bytesDone) / bytesTotal) : 100
    process.stderr.write(`\r\x1b[K${what} ${percent} % (${formatBytes(bytesDone)} of ${formatBytes(bytesTotal)})`)
  }

  clearProgress(): void {
    if (!this.#progressShown) return
    this.#progressShown = false
    process.stderr.write('\r\x1b[K')
  }
}

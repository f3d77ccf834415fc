/** The end of an engine in other processes: its workers drain, and their processes end. */
import { largest } from '../engine/options.js'
import { disposedError } from '../engine/parts.js'
import type { RemoteParts } from './remote-parts.js'
import type { Worker } from './supervisor.js'

export class RemoteShutdown {
  readonly #parts: RemoteParts
  #ending: Promise<void> | undefined

  constructor(parts: RemoteParts) {
    this.#parts = parts
  }

  /** Once; called again with `drainMs: 0`, it ends the draining. */
  begin(drainMs: number, reason: string): Promise<void> {
    if (this.#ending && drainMs === 0) this.#disposeWorkers(0, ({ drained }) => !drained)
    this.#ending ??= this.#parts.keepAlive.during(() => this.#end(drainMs, reason))
    return this.#ending
  }

  async #end(drainMs: number, reason: string): Promise<void> {
    const { state, pool, telemetry, folder } = this.#parts
    state.end('draining', reason)
    await Promise.all(this.#disposeWorkers(drainMs, ({ engineState }) => engineState === 'recovering'))
    await Promise.all(pool.workers.map((worker) => worker.stop(disposedError('generation'))))
    await folder?.remove()
    state.end('closed', 'everything is released')
    await telemetry.close()
  }

  /**
   * A worker that dies meanwhile, or is not there, has nothing left to dispose of. One that `isStuck`, when what ran has had its time to end, is ended
   * with its process. Once it has drained, it takes the time that it takes: it may have experts to persist.
   */
  #disposeWorkers(drainMs: number, isStuck: (worker: Worker) => boolean): Promise<void>[] {
    const ready = this.#parts.pool.workers.filter(({ state }) => state === 'ready')
    return ready.map(async (worker) => {
      const end = (): void => {
        if (isStuck(worker)) worker.kill()
      }
      const late = setTimeout(end, Math.min(drainMs + worker.cleanupMs, largest))
      await worker.dispose(drainMs).catch(() => {})
      clearTimeout(late)
    })
  }
}

/** The end of an engine in other processes: its workers drain, and their processes end. */
import { disposedError } from '../engine/parts.js'
import type { RemoteParts } from './remote-parts.js'

export class RemoteShutdown {
  readonly #parts: RemoteParts
  #ending: Promise<void> | undefined

  constructor(parts: RemoteParts) {
    this.#parts = parts
  }

  /** Once; called again with `drainMs: 0`, it ends the draining. */
  begin(drainMs: number, reason: string): Promise<void> {
    if (this.#ending && drainMs === 0) this.#disposeWorkers(0)
    this.#ending ??= this.#parts.keepAlive.during(() => this.#end(drainMs, reason))
    return this.#ending
  }

  async #end(drainMs: number, reason: string): Promise<void> {
    const { state, pool, telemetry, folder } = this.#parts
    state.end('draining', reason)
    await Promise.all(this.#disposeWorkers(drainMs))
    await Promise.all(pool.workers.map((worker) => worker.stop(disposedError('generation'))))
    await folder?.remove()
    state.end('closed', 'everything is released')
    await telemetry.close()
  }

  /** A worker that dies meanwhile, or is not there, has nothing left to dispose of. */
  #disposeWorkers(drainMs: number): Promise<unknown>[] {
    const ready = this.#parts.pool.workers.filter(({ state }) => state === 'ready')
    return ready.map((worker) => worker.call('engine.dispose', [{ drainMs }]).catch(() => {}))
  }
}

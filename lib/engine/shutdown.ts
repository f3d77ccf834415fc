/** How an engine ends, step by step: quiesce, drain, flush, persist, release. The audit log has the steps in their order. */
import { performance } from 'node:perf_hooks'
import { createError } from '../errors/index.js'
import type { EngineParts } from './parts.js'
import { disposedError } from './parts.js'
import type { Recovery } from './recovery.js'

export type ShutdownStep = 'quiesce' | 'drain' | 'flush' | 'persist' | 'release'

export class Shutdown {
  readonly #parts: EngineParts
  readonly #recovery: Recovery
  #ending: Promise<void> | undefined
  #force: () => void = () => {}

  constructor(parts: EngineParts, recovery: Recovery) {
    this.#parts = parts
    this.#recovery = recovery
  }

  /**
   * Begins the shutdown, once: requests that have begun may go on for `drainMs`, then they end with ENGINE_DISPOSED and their partial
   * text. A later call without time to drain ends the draining of the first at once.
   */
  begin(drainMs: number, reason: string): Promise<void> {
    if (this.#ending && drainMs === 0) this.#force()
    this.#ending ??= this.#run(drainMs, reason)
    return this.#ending
  }

  async #run(drainMs: number, reason: string): Promise<void> {
    const { lifecycle, models, backend, reserve, telemetry, hooks, ledger } = this.#parts
    const forced = new Promise<void>((resolve) => {
      this.#force = resolve
    })
    // Otherwise nothing is awaited before the state changes: what comes after dispose() is refused.
    if (this.#recovery.running) await this.#recovery.running
    // A recovery that failed has closed the engine; what it holds is still to be given back.
    const sound = lifecycle.state !== 'closed'
    const loads = models.loads()
    const closing = models.all()
    await this.#step('quiesce', async () => {
      if (sound) lifecycle.to('draining', reason)
      for (const { interruption } of loads) interruption.interrupt(disposedError('loadModel'))
    })
    await this.#step('drain', async () => {
      const left = await this.#drain(drainMs, forced)
      const error = () => (left > 0 && drainMs > 0 ? drainedError(drainMs) : disposedError('generation'))
      await Promise.all(models.takeAll().map((model) => model.close(error)))
      await Promise.allSettled([...loads.map(({ done }) => done), ...models.unloads()])
    })
    await this.#step('flush', async () => {
      await this.#all(hooks.flush)
      await telemetry.flush()
    })
    // A model that is unloaded meanwhile is gone: it persists nothing.
    await this.#step('persist', () =>
      this.#all(
        closing.map(
          ({ swaps }) =>
            () =>
              swaps.persist()
        )
      )
    )
    await this.#step('release', async () => {
      await this.#all(
        closing.map(
          ({ swaps }) =>
            () =>
              swaps.versions.close(ledger.journal !== undefined)
        )
      )
      await this.#all(hooks.release)
      backend.dispose()
      reserve.dispose()
    })
    if (sound) lifecycle.to('closed', 'everything is released')
    await telemetry.close()
  }

  /** Waits for the requests that have begun, until the deadline; returns how many are left then. */
  async #drain(drainMs: number, forced: Promise<void>): Promise<number> {
    const { requests } = this.#parts
    if (drainMs > 0 && requests.owed > 0) {
      let timer: NodeJS.Timeout | undefined
      const deadline = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, drainMs)
      })
      await Promise.race([requests.delivered(), deadline, forced])
      clearTimeout(timer)
    }
    return requests.owed
  }

  async #step(step: ShutdownStep, work: () => Promise<void>): Promise<void> {
    const began = performance.now()
    await work()
    this.#parts.telemetry.event('shutdown_step', `shutdown: ${step}`, { step, durationMs: performance.now() - began })
  }

  /** Each hook is given its turn, whatever the others do. */
  async #all(hooks: readonly (() => Promise<unknown>)[]): Promise<void> {
    for (const hook of hooks) {
      try {
        await hook()
      } catch (error) {
        this.#parts.telemetry.error(error, { method: 'dispose' })
      }
    }
  }
}

const drainedError = (drainMs: number) =>
  createError('ENGINE_DISPOSED', `the engine shut down, and the ${drainMs} ms for what ran are over`, {
    method: 'generation',
    drainMs
  })

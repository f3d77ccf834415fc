/** What an engine does after a fatal failure: it ends what ran, and goes on, or closes when even that fails. */
import { createError } from '../errors/index.js'
import type { LoadedModel } from '../loaded-model.js'
import { unloadModel } from './load-model.js'
import type { LoadModelRequest } from './options.js'
import type { EngineParts } from './parts.js'
import { checkOpen } from './parts.js'

export class Recovery {
  readonly #parts: EngineParts
  #running: Promise<void> | undefined
  #rebuilding: Promise<void> | undefined

  constructor(parts: EngineParts) {
    this.#parts = parts
  }

  /** The recovery that is under way. */
  get running(): Promise<void> | undefined {
    return this.#running
  }

  /** The device is being opened again. */
  get rebuilding(): Promise<void> | undefined {
    return this.#rebuilding
  }

  /** A broken invariant ends what runs; weights never change, so the engine can go on after it. */
  begin(error: unknown): void {
    const { lifecycle } = this.#parts
    if (!lifecycle.serving) return
    const previous = lifecycle.state
    lifecycle.to('recovering', 'a broken invariant')
    this.#running = this.#recover(error, previous === 'warm').finally(() => {
      this.#running = undefined
    })
  }

  /** A cancelled step that does not end: the engine recovers until it does. What it was for has been told. */
  watch(work: Promise<unknown>): void {
    const { lifecycle } = this.#parts
    if (!lifecycle.serving) return
    lifecycle.to('recovering', 'a step goes on after its cancellation')
    this.#running = work
      .then(
        () => this.#resume(false),
        () => this.#resume(false)
      )
      .finally(() => {
        this.#running = undefined
      })
  }

  /**
   * Opens a device again that was lost or hangs, and loads what was loaded, as it was: TierSets, pins, changed experts; once for all that ask while it
   * goes on. Nothing where the backend has no device. Throws what opening it does (then the engine is closed), or the first failure of a load (then
   * the others are there).
   */
  rebuild(load: (request: LoadModelRequest) => Promise<unknown>): Promise<void> {
    this.#rebuilding ??= this.#beginRebuild(load).finally(() => {
      this.#rebuilding = undefined
    })
    return this.#rebuilding
  }

  async #beginRebuild(load: (request: LoadModelRequest) => Promise<unknown>): Promise<void> {
    await this.#running
    const { lifecycle, backend } = this.#parts
    if (!backend.reopen) return
    checkOpen(this.#parts, 'recover')
    lifecycle.to('recovering', 'recover() was called')
    const done = this.#rebuild(() => backend.reopen?.(), load)
    this.#running = done
      .catch(() => {})
      .finally(() => {
        this.#running = undefined
      })
    await done
  }

  async #rebuild(reopen: () => unknown, load: (request: LoadModelRequest) => Promise<unknown>): Promise<void> {
    const { lifecycle, models, backend } = this.#parts
    // One that has brought everything would end with a model on a device that is gone.
    await Promise.allSettled(models.loads().map(({ done }) => done))
    const before = models.asLoaded()
    try {
      const device = backend.memory?.device
      const again = createError('GPU_DEVICE_LOST', 'the device is being opened again', { device, reason: 'recover' })
      await Promise.all(before.map(({ model }) => model.endRequests(again)))
      await Promise.all(before.map(({ id }) => unloadModel(this.#parts, id, true)))
      await reopen()
    } catch (cause) {
      lifecycle.to('closed', 'recovery failed')
      for (const { id, model } of before) await this.#forget(id, model)
      throw cause
    }
    const failures: unknown[] = []
    for (const { id, model, request } of before) {
      try {
        await load(request)
        await models.get(id).takeOver(model)
      } catch (error) {
        failures.push(error)
        // Better not there than with other experts than its requests had.
        if (models.ids().includes(id)) await unloadModel(this.#parts, id)
        await this.#forget(id, model)
      }
    }
    this.#resume(models.ids().length === 0)
    if (failures.length > 0) throw failures[0]
  }

  /** The files of a model's changed experts, which no load goes on with. */
  #forget(id: string, { swaps }: LoadedModel): Promise<void> {
    return swaps.versions.close(this.#parts.ledger.unfinishedEpochs(id).length > 0)
  }

  async #recover(error: unknown, wasWarm: boolean): Promise<void> {
    const { lifecycle, models, telemetry } = this.#parts
    telemetry.error(error)
    try {
      await Promise.all(models.all().map((model) => model.endRequests(error)))
    } catch (cause) {
      telemetry.error(cause)
      lifecycle.to('closed', 'recovery failed')
      return
    }
    this.#resume(wasWarm)
  }

  #resume(wasWarm: boolean): void {
    const { lifecycle } = this.#parts
    lifecycle.to(wasWarm ? 'warm' : 'active', 'recovered')
    // Maintenance that was under way is not over.
    if (lifecycle.frozen && lifecycle.state === 'active') lifecycle.to('frozen', lifecycle.frozen.reason)
  }
}

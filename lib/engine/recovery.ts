/** What an engine does after a fatal failure: it ends what ran, and goes on, or closes when even that fails. */
import { createError } from '../errors/index.js'
import type { LoadedModel } from '../loaded-model.js'
import { unloadModel } from './load-model.js'
import { sameModel } from './model-identity.js'
import type { Loaded } from './models.js'
import type { CheckedLoad } from './options.js'
import type { EngineParts } from './parts.js'
import { checkOpen } from './parts.js'

type Load = (request: CheckedLoad) => Promise<unknown>

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

  /** Resolves when the device that is being opened again has its models, or cannot be opened; not there where none is. */
  get rebuilding(): Promise<void> | undefined {
    return this.#rebuilding?.catch(() => {})
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
   * goes on. Nothing where the backend has no device. Throws what opening it does (then the engine is closed), or the first failure of a load or
   * MODEL_CHANGED (then the others are there, and further failures have been told).
   */
  rebuild(load: Load): Promise<void> {
    this.#rebuilding ??= this.#beginRebuild(load).finally(() => {
      this.#rebuilding = undefined
    })
    return this.#rebuilding
  }

  async #beginRebuild(load: Load): Promise<void> {
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

  async #rebuild(reopen: () => unknown, load: Load): Promise<void> {
    const { lifecycle, models, backend, telemetry } = this.#parts
    // One that has brought everything would end with a model on a device that is gone.
    await Promise.allSettled(models.loads().map(({ done }) => done))
    const device = backend.memory?.device
    const again = () =>
      createError('GPU_DEVICE_LOST', 'the device is being opened again', { device, reason: 'recover' })
    let before: (Loaded & { id: string })[] = []
    try {
      await Promise.all(models.serving().map((model) => model.endRequests(again())))
      // Not earlier: what was unloaded or activated while requests ended counts.
      before = models.asLoaded()
      const unloads = before.map(({ id }) => unloadModel(this.#parts, id, again))
      for (const { id } of before) models.leave(id, again)
      await Promise.all(unloads)
      await Promise.allSettled(models.unloads())
      await reopen()
    } catch (cause) {
      lifecycle.to('closed', 'recovery failed')
      for (const { id, model } of before) await this.#forget(id, model)
      throw cause
    }
    const failures: unknown[] = []
    for (const one of before) {
      const { id, model, request } = one
      try {
        await load(request)
        const now = models.loaded(id)
        checkSame(id, one, now)
        await now.model.takeOver(model)
        models.back(id)
      } catch (error) {
        // One is thrown.
        if (failures.push(error) > 1) telemetry.error(error, { method: 'recover', model: id })
        models.back(id)
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
      await Promise.all(models.serving().map((model) => model.endRequests(error)))
    } catch (cause) {
      telemetry.error(cause)
      lifecycle.to('closed', 'recovery failed')
      return
    }
    this.#resume(wasWarm)
  }

  #resume(asWarm: boolean): void {
    const { lifecycle } = this.#parts
    lifecycle.to(asWarm && !lifecycle.frozen ? 'warm' : 'active', 'recovered')
    // Maintenance that was under way is not over, whatever is loaded.
    if (lifecycle.frozen && lifecycle.state === 'active') lifecycle.to('frozen', lifecycle.frozen.reason)
  }
}

/** Throws MODEL_CHANGED {model, path, expected, actual} where a model is not the one that it was. */
function checkSame(id: string, before: Loaded, { identity: now, request }: Loaded): void {
  const was = before.identity
  if (!was || !now) return
  const isSame = [was.identity, ...before.persisted].some((own) => sameModel(own, now.identity))
  if (isSame && was.tiersSha256 === now.tiersSha256) return
  const why = isSame ? 'its tiers have other experts' : 'its file has changed'
  throw createError('MODEL_CHANGED', `the model ${id} is not the one that was on the device before: ${why}`, {
    model: id,
    path: request.model,
    expected: { ...was.identity },
    actual: { ...now.identity }
  })
}

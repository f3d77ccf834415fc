/** The models of one engine by id: those that are loaded, that are being loaded, and that are being unloaded. */
import type { EngineError } from '../errors/index.js'
import { createError } from '../errors/index.js'
import type { Interruption } from '../interruption.js'
import type { ModelIdentity } from '../journal/index.js'
import type { LoadedModel } from '../loaded-model.js'
import type { LoadIdentity } from './model-identity.js'
import type { CheckedLoad } from './options.js'

/** A load in progress: what ends it early, and its end. */
export interface Load {
  interruption: Interruption
  done: Promise<unknown>
}

/** A loaded model, and what it takes to load it again. */
export interface Loaded {
  readonly model: LoadedModel
  /** The engine's own, with absolute paths: neither the caller nor another current folder changes it. */
  request: CheckedLoad
  /** Where the model may have to be loaded again. */
  readonly identity: LoadIdentity | undefined
  /** The files that it has written itself since: manifests with its changed experts. */
  readonly persisted: ModelIdentity[]
}

export class Models {
  readonly #loaded = new Map<string, Loaded>()
  readonly #loads = new Map<string, Load>()
  readonly #unloads = new Map<string, Promise<unknown>>()
  /** Replaced by another one of the same id, with requests that have not ended. */
  readonly #retired = new Set<LoadedModel>()
  /** Models whose device is being opened again, and what is told of them meanwhile. */
  readonly #away = new Map<string, () => EngineError>()

  ids(): string[] {
    return [...this.#loaded.keys()]
  }

  all(): LoadedModel[] {
    return [...this.#loaded.values()].map(({ model }) => model)
  }

  /** Whatever may have requests: what is loaded, and what was replaced and still has some. */
  serving(): LoadedModel[] {
    return [...this.all(), ...this.#retired]
  }

  loads(): Load[] {
    return [...this.#loads.values()]
  }

  /** The ends of the unloads in progress. */
  unloads(): Promise<unknown>[] {
    return [...this.#unloads.values()]
  }

  /** Throws MODEL_NOT_LOADED {model, loaded}, and of one that is `away` what its leaving was given. */
  get(id: string): LoadedModel {
    const away = this.#away.get(id)
    if (away) throw away()
    return this.loaded(id).model
  }

  /** Also of a model that is `away`, from its load on. Throws MODEL_NOT_LOADED {model, loaded, loading}. */
  loaded(id: string): Loaded {
    const loaded = this.#loaded.get(id)
    if (!loaded && this.#loads.has(id)) throw notLoadedError(id, 'is being loaded', this.ids(), { loading: true })
    if (!loaded) throw this.notLoaded(id, 'is not loaded')
    return loaded
  }

  /** Nobody gets the model of that id until it is `back`, whether it is unloaded and loaded meanwhile or not. */
  leave(id: string, error: () => EngineError): void {
    this.#away.set(id, error)
  }

  back(id: string): void {
    this.#away.delete(id)
  }

  /** Throws MODEL_ALREADY_LOADED {model, loaded} where the id is taken. */
  checkFree(id: string): void {
    const states = [
      [this.#loaded, 'is loaded already'],
      [this.#loads, 'is being loaded'],
      [this.#unloads, 'is being unloaded']
    ] as const
    const doing = states.find(([models]) => models.has(id))?.[1]
    if (doing === undefined) return
    throw createError('MODEL_ALREADY_LOADED', `a model with the id ${id} ${doing}`, { model: id, loaded: this.ids() })
  }

  /** Throws MODEL_NOT_LOADED, and MODEL_ALREADY_LOADED where it is being replaced already. */
  checkReplaceable(id: string): void {
    this.get(id)
    if (!this.#loads.has(id)) return
    const details = { model: id, loaded: this.ids() }
    throw createError('MODEL_ALREADY_LOADED', `the model ${id} is being replaced already`, details)
  }

  beginLoad(id: string, load: Load): void {
    this.#loads.set(id, load)
  }

  endLoad(id: string): void {
    this.#loads.delete(id)
  }

  beginUnload(id: string, done: Promise<unknown>): void {
    this.#unloads.set(id, done)
  }

  endUnload(id: string): void {
    this.#unloads.delete(id)
  }

  add(id: string, loaded: Omit<Loaded, 'persisted'>): void {
    this.#loaded.set(id, { ...loaded, persisted: [] })
  }

  /** From now on requests get another model under the id; the one before has to be `ended`. Throws as `loaded`. */
  replace(id: string, by: Omit<Loaded, 'persisted'>): LoadedModel {
    const { model } = this.loaded(id)
    this.add(id, by)
    this.#retired.add(model)
    return model
  }

  isRetired(model: LoadedModel): boolean {
    return this.#retired.has(model)
  }

  /** A replaced model is being closed. */
  ended(model: LoadedModel): void {
    this.#retired.delete(model)
  }

  /** All that is loaded, with what would load it as it is now: with the TierSet or latency budget that is active. */
  asLoaded(): (Loaded & { id: string })[] {
    return [...this.#loaded].map(([id, loaded]) => {
      const { tierSet: _, latencyBudgetMs: __, ...request } = loaded.request
      const { tierSet, latencyBudgetMs } = loaded.model.info()
      const active = latencyBudgetMs === undefined ? { tierSet: [...tierSet.tiers] } : { latencyBudgetMs }
      return { ...loaded, id, request: { ...request, ...active } }
    })
  }

  /** Tiers of a model are in another folder from now on. */
  moveTiers(id: string, tiers: readonly string[], folder: string): void {
    const loaded = this.loaded(id)
    const moved = Object.fromEntries(tiers.map((tier) => [tier, folder]))
    loaded.request = { ...loaded.request, tierFolders: { ...loaded.request.tierFolders, ...moved } }
  }

  /** A model is about to make this of its file; of one that is being closed nothing is kept. */
  persisting(id: string, identity: ModelIdentity): void {
    this.#loaded.get(id)?.persisted.push(identity)
  }

  /** Takes a model out. Throws as `get`. */
  take(id: string): LoadedModel {
    const model = this.get(id)
    this.#loaded.delete(id)
    return model
  }

  /** Those that were replaced too. */
  takeAll(): LoadedModel[] {
    const models = this.serving()
    this.#loaded.clear()
    this.#retired.clear()
    return models
  }

  notLoaded(id: string, what: string): EngineError {
    return notLoadedError(id, what, this.ids())
  }
}

/** MODEL_NOT_LOADED {model, loaded}, and `loading` of one that will be there. */
export function notLoadedError(
  id: string,
  what: string,
  loaded: readonly string[],
  more: { loading?: true } = {}
): EngineError {
  const list = loaded.length > 0 ? `loaded: ${loaded.join(', ')}` : 'none is loaded'
  return createError('MODEL_NOT_LOADED', `model ${id} ${what}; ${list}`, { model: id, loaded: [...loaded], ...more })
}

/** The models of one engine by id: those that are loaded, that are being loaded, and that are being unloaded. */
import type { EngineError } from '../errors/index.js'
import { createError } from '../errors/index.js'
import type { Interruption } from '../interruption.js'
import type { LoadedModel } from '../loaded-model.js'
import type { LoadModelRequest } from './options.js'

/** A load in progress: what ends it early, and its end. */
export interface Load {
  interruption: Interruption
  done: Promise<unknown>
}

export class Models {
  readonly #loaded = new Map<string, LoadedModel>()
  /** What each was loaded with, to load it again. */
  readonly #requests = new Map<string, LoadModelRequest>()
  readonly #loads = new Map<string, Load>()
  readonly #unloads = new Map<string, Promise<unknown>>()

  ids(): string[] {
    return [...this.#loaded.keys()]
  }

  all(): LoadedModel[] {
    return [...this.#loaded.values()]
  }

  loads(): Load[] {
    return [...this.#loads.values()]
  }

  /** The ends of the unloads in progress. */
  unloads(): Promise<unknown>[] {
    return [...this.#unloads.values()]
  }

  /** Throws MODEL_NOT_LOADED {model, loaded}. */
  get(id: string): LoadedModel {
    const model = this.#loaded.get(id)
    if (!model) throw this.notLoaded(id, 'is not loaded')
    return model
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

  add(id: string, model: LoadedModel, request: LoadModelRequest): void {
    this.#loaded.set(id, model)
    this.#requests.set(id, request)
  }

  /** All that is loaded, with what would load it as it is now: with the TierSet or latency budget that is active. */
  asLoaded(): { id: string; model: LoadedModel; request: LoadModelRequest }[] {
    return [...this.#loaded].map(([id, model]) => {
      const { tierSet: _, latencyBudgetMs: __, ...request } = this.#requests.get(id) ?? {}
      const { tierSet, latencyBudgetMs } = model.info()
      const active = latencyBudgetMs === undefined ? { tierSet: tierSet.tiers } : { latencyBudgetMs }
      return { id, model, request: { ...request, id, ...active } }
    })
  }

  /** Tiers of a model are in another folder from now on. */
  moveTiers(id: string, tiers: readonly string[], folder: string): void {
    const request = this.#requests.get(id)
    const moved = Object.fromEntries(tiers.map((tier) => [tier, folder]))
    this.#requests.set(id, { ...request, tierFolders: { ...request?.tierFolders, ...moved } })
  }

  /** Takes a model out. Throws MODEL_NOT_LOADED. */
  take(id: string): LoadedModel {
    const model = this.get(id)
    this.#loaded.delete(id)
    this.#requests.delete(id)
    return model
  }

  takeAll(): LoadedModel[] {
    const models = this.all()
    this.#loaded.clear()
    this.#requests.clear()
    return models
  }

  notLoaded(id: string, what: string): EngineError {
    const loaded = this.ids()
    const list = loaded.length > 0 ? `loaded: ${loaded.join(', ')}` : 'none is loaded'
    return createError('MODEL_NOT_LOADED', `model ${id} ${what}; ${list}`, { model: id, loaded })
  }
}

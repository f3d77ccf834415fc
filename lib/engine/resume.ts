/** Goes on with a request of the journal: its model is there again, what it had is repeated, the rest is computed. */
import { z } from 'zod'
import { createError, isEngineError } from '../errors/index.js'
import type { LocalGenerator } from '../generation/local-generator.js'
import type { CallOptions } from '../generation/options.js'
import type { Journal, JournaledRequest, ModelIdentity, ModelRecord, Recovered } from '../journal/index.js'
import type { LoadedModel } from '../loaded-model.js'
import type { QuantizeType } from '../safetensors/open.js'
import { unloadModel } from './load-model.js'
import { identify, sameModel } from './model-identity.js'
import type { LoadModelRequest } from './options.js'
import type { EngineParts } from './parts.js'
import { reload } from './reload.js'
import { restoredRequest } from './stored-request.js'

export interface ResumeRequest {
  requestId: string
  /** Give the tokens from this position of the output on: as many as the client has. Default 0. */
  from?: number
}

const requestId = z.string().min(1).max(200).describe('a string of 1 to 200 characters')

export const resumeSchema = z.strictObject({
  requestId,
  from: z.number().int().min(0).default(0).describe('an integer from 0 on')
})

export const acknowledgeSchema = z.strictObject({ requestId })

/** Of an engine without a journal. */
export const nothing: Recovered = {
  requests: [],
  models: [],
  version: undefined,
  routingSeed: undefined,
  cut: undefined,
  damage: []
}

export class Resumption {
  readonly #parts: EngineParts
  readonly #load: (request: LoadModelRequest) => Promise<unknown>
  /** Loads under way for requests that go on, by model id. */
  readonly #loads = new Map<string, Promise<unknown>>()

  /** `load` is the engine's own loadModel. */
  constructor(parts: EngineParts, load: (request: LoadModelRequest) => Promise<unknown>) {
    this.#parts = parts
    this.#load = load
  }

  get recovered(): Recovered {
    return this.#parts.ledger.journal?.recovered ?? nothing
  }

  /** Loads what was loaded when the engine before this one ended. What cannot be loaded has its `error` in `recovered`. */
  async loadModels(): Promise<void> {
    for (const model of this.recovered.models) {
      try {
        await reload(this.#parts, { ...model.options, model: model.path, id: model.id }, this.#load)
      } catch (error) {
        if (!isEngineError(error)) throw error
        model.error = error
      }
    }
  }

  /** Throws REQUEST_NOT_FOUND, MODEL_CHANGED {expected, actual}, and what loadModel throws. */
  async generator({ requestId, from }: Required<ResumeRequest>, call: CallOptions): Promise<LocalGenerator> {
    const { ledger, telemetry } = this.#parts
    const found = ledger.find(requestId, 'resumeGenerator')
    const model = await this.#model(found)
    const { accepted, tokens, logprobs, top, finished } = await ledger.take(requestId, 'resumeGenerator')
    // A gap in a salvaged journal: the rest is computed again.
    const complete = finished?.usage.completionTokens === tokens.length
    const earlier = {
      tokens: [...tokens],
      logprobs: [...logprobs],
      top: [...top],
      finishReason: complete ? finished?.reason : undefined,
      from,
      epoch: accepted.epoch,
      cachedTokens: complete ? finished?.usage.cachedTokens : undefined
    }
    const request = restoredRequest(accepted.request, requestId)
    const fields = { requestId, model: request.model, from, tokens: tokens.length }
    telemetry.event('request_resumed', `request ${requestId} goes on after ${tokens.length} tokens`, fields)
    return model.createGenerator('resumeGenerator', request, call, earlier)
  }

  /** The model that a request began with, loaded again where it is not. */
  async #model({ accepted, finished }: JournaledRequest): Promise<LoadedModel> {
    const { ledger, models } = this.#parts
    const began = ledger.journal!.load(accepted.load)!
    const { id } = began
    if (!models.ids().includes(id)) await this.#loadAgain(began)
    const now = ledger.loadOf(id)
    if (now && now.load !== began.load) {
      checkSame(began, now)
      // What has ended is only repeated.
      if (!finished) checkExperts(ledger.journal!, began, now, accepted.epoch)
    }
    return models.get(id)
  }

  async #loadAgain(began: ModelRecord): Promise<void> {
    const { ledger } = this.#parts
    const { id, path, identity } = began
    const underWay = this.#loads.get(id)
    if (underWay) {
      await underWay
      return
    }
    const load = async (): Promise<void> => {
      // Before a load of minutes; what the load itself identifies is compared once more.
      const options = ledger.journal!.loadOptions(began)
      const actual = await identify(path, options.quantize as QuantizeType | undefined).catch(() => undefined)
      const earlier = actual && ledger.earlierLoad(id, actual)
      const same =
        !actual || sameModel(identity, actual) || (earlier && sameModel(originOf(began), originOf(earlier.model)))
      if (!same) throw changed(began, actual, 'its file has changed')
      await reload(this.#parts, { ...options, model: path, id }, this.#load)
      try {
        checkSame(began, ledger.loadOf(id)!)
      } catch (error) {
        await unloadModel(this.#parts, id)
        throw error
      }
    }
    const loading = load().finally(() => this.#loads.delete(id))
    this.#loads.set(id, loading)
    await loading
  }
}

/** What changes a text: the weights, the type of the KV cache, and where the context ends. */
function checkSame(began: ModelRecord, now: ModelRecord): void {
  if (!sameModel(originOf(began), originOf(now)))
    throw changed(began, now.identity, `another file is loaded: ${now.path}`)
  if (began.options.kvType !== now.options.kvType) {
    throw changed(began, now.identity, `its KV type is ${now.options.kvType}, and was ${began.options.kvType}`)
  }
  if (began.routingSeed !== now.routingSeed) {
    throw changed(began, now.identity, `its routing seed is ${now.routingSeed}, and was ${began.routingSeed}`)
  }
  if (began.tiersSha256 !== now.tiersSha256) {
    throw changed(began, now.identity, 'its tiers have other experts')
  }
  if (began.contextLength !== now.contextLength) {
    throw changed(began, now.identity, `its context holds ${now.contextLength}, and held ${began.contextLength}`)
  }
}

/** The file as it was before experts of it were changed. */
const originOf = ({ identity, origin }: ModelRecord): ModelIdentity => origin ?? identity

/** The experts have to have become what they are now in the same way, as far as the request has seen it. */
function checkExperts(journal: Journal, began: ModelRecord, now: ModelRecord, epoch: number): void {
  const seen = (load: number) =>
    journal
      .expertChanges(load)
      .filter((change) => change.epoch <= epoch)
      .map(({ epoch, experts }) => [epoch, experts.map(({ layer, expert, blob }) => [layer, expert, blob.sha256])])
  if (JSON.stringify(seen(began.load)) === JSON.stringify(seen(now.load))) return
  throw changed(began, now.identity, 'its experts have been changed in another way')
}

function changed({ id, path, identity }: ModelRecord, actual: ModelIdentity, why: string) {
  return createError('MODEL_CHANGED', `the model ${id} is not the one that the request began with: ${why}`, {
    model: id,
    path,
    expected: { ...identity },
    actual: { ...actual }
  })
}

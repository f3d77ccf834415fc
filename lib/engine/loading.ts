/** Loads one model, phase by phase: from a path to a LoadedModel, or to nothing held and a typed error. */

import type { CallOptions } from '../generation/options.js'
import { Interruption } from '../interruption.js'
import { LoadedModel } from '../loaded-model.js'
import { checkMemory } from '../memory-plan.js'
import type { ModelDescription } from '../model/index.js'
import { readModel } from '../model/index.js'
import { createTokenizer } from '../model/tokenizer.js'
import type { NativeCancel, NativeGguf } from '../native.js'
import { validationError } from '../validation.js'
import type { CheckedLoad, LoadModelOptions } from './options.js'
import type { EngineParts } from './parts.js'
import { Phases } from './phases.js'

/** Without a contextLength, a model is loaded when at least this much context fits in memory beside it. */
const leastContext = 4096

/** One load, from its first phase to its last. */
export class ModelLoad {
  readonly interruption: Interruption
  /** Rejects with what the load failed with; `interruption.explain` makes the caller's error of it. */
  readonly done: Promise<LoadedModel>
  readonly #parts: EngineParts
  readonly #id: string
  readonly #request: CheckedLoad
  readonly #cancel: NativeCancel

  constructor(
    parts: EngineParts,
    id: string,
    path: string,
    request: CheckedLoad,
    { onProgress, ...call }: LoadModelOptions,
    onFatal: (error: unknown) => void
  ) {
    this.#parts = parts
    this.#id = id
    this.#request = request
    this.#cancel = parts.addon.createCancel()
    this.interruption = new Interruption(
      this.#cancel,
      'loadModel',
      `loading ${id}`,
      'MODEL_LOAD_TIMEOUT',
      call as CallOptions
    )
    this.done = this.#load(path, onProgress, onFatal)
  }

  async #load(
    path: string,
    onProgress: LoadModelOptions['onProgress'],
    onFatal: (error: unknown) => void
  ): Promise<LoadedModel> {
    const { addon, backend, options } = this.#parts
    const phases = new Phases(
      () => {},
      () => this.interruption.check(),
      this.#id
    )
    let file: NativeGguf | undefined
    try {
      const { description, tokenizer, contextLength } = await phases.run('manifest', async () => {
        file = await addon.openGguf(path)
        this.interruption.check()
        const description = readModel(file)
        return {
          description,
          tokenizer: createTokenizer(file.metadata),
          contextLength: this.#fitContext(file, description)
        }
      })
      const { maxBatchTokens } = options
      const listener = guardProgress(onProgress, this.#cancel)
      const native = await phases.run('base-parameters', async () => {
        const native = await backend
          .loadModel(
            file!,
            description.plan,
            { maxBatchTokens, ...(onProgress && { onProgress: listener.call }) },
            this.#cancel
          )
          .catch((error: unknown) => {
            throw listener.failure() ?? error
          })
        try {
          // The last progress event or an abort may have come after the last tensor.
          if (listener.failure() !== undefined) throw listener.failure()
          this.interruption.check()
        } catch (error) {
          await native.dispose()
          throw error
        }
        return native
      })
      return new LoadedModel({
        id: this.#id,
        addon,
        native,
        tokenizer,
        descriptor: description.descriptor,
        vocab: description.plan.vocab,
        contextLength,
        kvType: this.#request.kvType,
        maxBatchTokens,
        onFatal
      })
    } finally {
      file?.close()
    }
  }

  /** The context to load with. VALIDATION_ERROR beyond what the model supports, RESOURCE_MEMORY_EXHAUSTED. */
  #fitContext(file: NativeGguf, description: ModelDescription): number {
    const { addon, options } = this.#parts
    const { maxBatchTokens, maxContextTokens } = options
    const { contextLength: supported, plan } = description
    const { contextLength: asked, kvType } = this.#request
    if (asked !== undefined && asked > supported) {
      const allowed = `an integer from 1 to ${supported}, the model's context`
      throw validationError('loadModel', 'contextLength', asked, allowed)
    }
    const contextLength = asked ?? Math.min(supported, maxContextTokens ?? supported)
    const checkedLength = asked ?? Math.min(contextLength, leastContext)
    const memory = { kvType, contextLength: checkedLength, maxBatchTokens }
    checkMemory(file.tensors, plan, memory, addon.availableMemory())
    return contextLength
  }
}

/** A progress listener of the caller's that ends the load when it throws. */
function guardProgress(onProgress: LoadModelOptions['onProgress'], cancel: NativeCancel) {
  let failure: unknown
  return {
    failure: () => failure,
    call: (progress: Parameters<NonNullable<typeof onProgress>>[0]): void => {
      if (failure !== undefined) return
      try {
        onProgress?.(progress)
      } catch (error) {
        failure = error
        cancel.cancel()
      }
    }
  }
}

/** Draws tokens from logits that were read back, with the CPU's own sampler: same logits, same token. */
import type { NativeBackend, SamplingParams, StepItemResult } from '../../../native.js'

export class Sampler {
  readonly #host: Pick<NativeBackend, 'call'>

  constructor(host: Pick<NativeBackend, 'call'>) {
    this.#host = host
  }

  /** RUNTIME_NAN_DETECTED {token}, VALIDATION_ERROR where no token may be chosen. */
  sample(logits: Float32Array, position: number, params: SamplingParams): StepItemResult {
    const { temperature, topK, topP, minP, repetitionPenalty, seed, topLogprobs, recent, banned, allowed } = params
    const args = [logits, position, temperature, topK, topP, minP, repetitionPenalty, seed, topLogprobs]
    return this.#host.call('sample', [...args, recent, banned, allowed], false) as StepItemResult
  }
}

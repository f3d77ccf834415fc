/** Draws of a token under random settings, compared with an oracle. */
import type { Test } from 'tap'
import type { SampleRequest, SampleResult } from 'tiered-moe/kernels'
import { sampleOracle } from './oracle-dense.js'
import { softmax } from './oracle-moe.js'
import { bound, tolerances } from './tolerance.js'
import { type Random, whole } from './values.js'

export type Settings = Omit<SampleRequest, 'logits'>

/** What one setting is, drawn with the others; `topKs` beside 0, 1, 5 and 40. */
export function settings(next: Random, vocab: number, topKs: readonly number[]): Settings {
  const pick = <T>(values: readonly T[]) => values[whole(next, 0, values.length - 1)]!
  // Of as many words as the vocabulary needs, or of one fewer; with more tokens than are banned.
  const mask = () => {
    const words = Math.max(1, Math.ceil(vocab / 32) - whole(next, 0, 1))
    return Uint32Array.from({ length: words }, () => whole(next, 0, 2 ** 32 - 1) | 0xff)
  }
  const some = (n: number) => Int32Array.from({ length: n }, () => whole(next, 0, vocab - 1))
  return {
    position: pick([0, 1, 77, 2 ** 20]),
    seed: pick([0, 1, 12345, 2 ** 53 - 1]),
    temperature: pick([0, 0.1, 0.7, 1, 1.5, 100]),
    topK: pick([0, 1, 5, 40, ...topKs]),
    topP: pick([1, 1, 0.95, 0.5, 0]),
    minP: pick([0, 0, 0.05, 0.5, 1]),
    repetitionPenalty: pick([1, 1, 1.1, 0.5, 3]),
    recent: some(whole(next, 0, 6)),
    banned: some(whole(next, 0, Math.min(3, vocab - 1))),
    topLogprobs: pick([-1, 0, 1, 5, 20]),
    ...pick([{}, {}, { allowed: mask() }])
  }
}

/** The oracle's token, and log probabilities as they were asked for. False where the draw is too close to call. */
export function checkDraw(
  test: Test,
  label: string,
  logits: Float32Array,
  own: Settings,
  { token, logprob, top }: SampleResult
): boolean {
  const oracle = sampleOracle(logits, own)
  if (!oracle.close) test.equal(token, oracle.token, `${label}: the oracle's token for ${JSON.stringify(own)}`)
  const p = softmax(Array.from(logits))
  const near = (got: number, id: number) =>
    Math.abs(got - Math.log(p[id]!)) <= bound(tolerances.logProbability, 1, logits.length)
  test.equal(logprob === undefined, own.topLogprobs === -1, `${label}: log probabilities as asked`)
  if (logprob !== undefined && top) {
    test.ok(near(logprob, token), `${label}: log probability of the token`)
    const order = p.map((_, id) => id).sort((a, b) => logits[b]! - logits[a]! || a - b)
    test.same([...top.ids], order.slice(0, own.topLogprobs), `${label}: the most likely`)
    for (const [j, id] of top.ids.entries()) test.ok(near(top.logprobs[j]!, id), `${label}: log probability of ${id}`)
  }
  return !oracle.close
}

/** What the sample shader is asked for and what it answers, as csrc/core/sampling.h means them. */
import type { EngineError } from '../../errors/index.js'
import { createError } from '../../errors/index.js'
import type { SamplingParams } from '../../native/model.js'
import { bits } from './launches/launch.js'
import { mostCandidates, requestWords, resultWords } from './launches/sample.js'

export interface Draw extends SamplingParams {
  /** Absolute position of the token that is drawn. */
  position: number
}

export interface Drawn {
  token: number
  logprob?: number
  top?: { ids: Int32Array; logprobs: Float32Array }
}

const none = 0xffffffff
const mask64 = (1n << 64n) - 1n

type Breadth = Pick<SamplingParams, 'temperature' | 'topK'>

/** Candidates before top-p and min-p. */
const candidatesOf = ({ temperature, topK }: Breadth, vocab: number): number =>
  temperature === 0 ? 1 : topK > 0 ? Math.min(topK, vocab) : vocab

/** Whether the shader can draw: it sorts no more than 256 candidates. The rest is for the CPU's sampler. */
export const drawsOnDevice = (params: Breadth, vocab: number): boolean => candidatesOf(params, vocab) <= mostCandidates

/** Uniform in [0, 1), 24 bits: splitmix64's counter and finaliser at (seed, position). */
export function uniformAt(seed: number, position: number): number {
  let x = (BigInt(seed) + 0x9e3779b97f4a7c15n * (BigInt(position) + 1n)) & mask64
  x = ((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n) & mask64
  x = ((x ^ (x >> 27n)) * 0x94d049bb133111ebn) & mask64
  return Number((x ^ (x >> 31n)) >> 40n) * 2 ** -24
}

/** Tokens of a vocabulary, each once. */
const tokensOf = (ids: Int32Array | undefined, vocab: number): number[] =>
  [...new Set(ids)].filter((id) => id >= 0 && id < vocab)

/** Tokens that may not be drawn: the shader takes no mask. */
function barred({ banned, allowed }: Draw, vocab: number): number[] {
  if (!allowed) return tokensOf(banned, vocab)
  const isAllowed = (id: number): boolean => (((allowed[id >> 5] ?? 0) >>> (id & 31)) & 1) === 1
  const excluded = new Set(banned)
  return Array.from({ length: vocab }, (_, id) => id).filter((id) => !isAllowed(id) || excluded.has(id))
}

/** The shader's `requests` and `lists`; undefined stands for a row that nothing is drawn from: it is only checked. */
export function sampleRequests(
  draws: readonly (Draw | undefined)[],
  vocab: number
): { requests: Uint32Array; lists: Uint32Array } {
  const requests = new Uint32Array(draws.length * requestWords)
  const lists: number[] = []
  for (const [row, draw] of draws.entries()) {
    if (!draw) continue
    const { temperature, topP, minP, repetitionPenalty, seed, position, topLogprobs } = draw
    const penalised = repetitionPenalty === 1 ? [] : tokensOf(draw.recent, vocab)
    const banned = barred(draw, vocab)
    requests.set(
      [
        candidatesOf(draw, vocab),
        temperature === 0 ? 0 : bits(uniformAt(seed, position)),
        bits(temperature),
        bits(topP),
        bits(minP),
        bits(repetitionPenalty),
        lists.length / 2,
        penalised.length,
        banned.length,
        topLogprobs + 1
      ],
      row * requestWords
    )
    for (const id of [...penalised, ...banned]) lists.push(id, 0)
  }
  return { requests, lists: Uint32Array.from(lists) }
}

/** Why a row of results has no token: RUNTIME_NAN_DETECTED {token: number of the logit}, VALIDATION_ERROR where no token may be chosen. */
export function sampleFailure(results: Uint32Array, row: number, position: number): EngineError | undefined {
  const [token, bad] = results.subarray(row * resultWords) as unknown as [number, number]
  if (bad !== none) {
    const message = `logit ${bad} of position ${position} is not finite`
    return createError('RUNTIME_NAN_DETECTED', message, { token: bad })
  }
  if (token !== none) return undefined
  return createError('VALIDATION_ERROR', 'no token of the vocabulary may be chosen', { argument: 'banned, allowed' })
}

/** A row of results; `sampleFailure` says before whether it has a token. */
export function sampled(results: Uint32Array, row: number, { topLogprobs }: SamplingParams, vocab: number): Drawn {
  const own = results.slice(row * resultWords, (row + 1) * resultWords)
  const token = own[0]!
  if (topLogprobs < 0) return { token }
  const floats = new Float32Array(own.buffer)
  const [largest, sum] = [floats[2]!, floats[3]!]
  const logprob = (logit: number) => Math.fround(logit - largest + Math.log(Math.fround(1 / sum)))
  const count = Math.min(topLogprobs, vocab)
  const ids = Int32Array.from({ length: count }, (_, i) => own[8 + 2 * i]!)
  const logprobs = Float32Array.from({ length: count }, (_, i) => logprob(floats[9 + 2 * i]!))
  return { token, logprob: logprob(floats[4]!), top: { ids, logprobs } }
}

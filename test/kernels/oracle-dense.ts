/** Oracles of everything but experts, in doubles with Math's functions. */
import type { AttentionRequest } from 'tiered-moe/kernels'
import { fromF16, toF16 } from '../fixtures/weights.js'
import { softmax } from './oracle-moe.js'
import type { Reckoned } from './oracle-weights.js'

export function rmsNormOracle(x: Float32Array, weight: Float32Array, epsilon: number): Reckoned[] {
  const n = weight.length
  return Array.from(x, (value, i) => {
    const first = i - (i % n)
    let sum = 0
    for (let j = 0; j < n; j++) sum += x[first + j]! ** 2
    const out = (value / Math.sqrt(sum / n + epsilon)) * weight[i % n]!
    return { value: out, scale: Math.abs(out), terms: Math.ceil(n / 16) }
  })
}

interface Rope {
  x: Float32Array
  positions: Uint32Array
  heads: number
  headDim: number
  rotaryDim: number
  base: number
  pairs: 'neox' | 'interleaved'
  /** Of each pair; default base^(-2i / rotaryDim). */
  frequencies?: number[]
  magnitude?: number
}

export function ropeOracle(rope: Rope): Reckoned[] {
  const { x, positions, heads, headDim, rotaryDim, base, pairs, frequencies, magnitude = 1 } = rope
  const out: Reckoned[] = Array.from(x, (value) => ({ value, scale: 0, terms: 0 }))
  for (let t = 0; t < positions.length; t++) {
    for (let h = 0; h < heads; h++) {
      for (let i = 0; i < rotaryDim / 2; i++) {
        const start = (t * heads + h) * headDim
        const [p, q] = pairs === 'neox' ? [start + i, start + i + rotaryDim / 2] : [start + 2 * i, start + 2 * i + 1]
        const angle = positions[t]! * (frequencies?.[i] ?? base ** ((-2 * i) / rotaryDim))
        const [a, b] = [x[p]!, x[q]!]
        // an angle in doubles is off by some 2^-50 of itself
        const scale = magnitude * (Math.abs(a) + Math.abs(b)) * (1 + angle * 2 ** -26)
        out[p] = { value: magnitude * (a * Math.cos(angle) - b * Math.sin(angle)), scale, terms: 0 }
        out[q] = { value: magnitude * (b * Math.cos(angle) + a * Math.sin(angle)), scale, terms: 0 }
      }
    }
  }
  return out
}

/** Attention of the call's tokens over `keys` and `values` of all positions so far, [positions][kvHeads][dim]. */
export function attentionOracle(request: AttentionRequest, keys: Float32Array, values: Float32Array): Reckoned[] {
  const { q, start, heads, kvHeads, headDim, kvType = 'f16', scale = 1 / Math.sqrt(headDim) } = request
  const valueDim = request.valueDim ?? headDim
  const stored = (x: Float32Array) => (kvType === 'f16' ? x.map((v) => fromF16(toF16(v))) : x)
  const [heldKeys, heldValues] = [stored(keys), stored(values)]
  const tokens = q.length / (heads * headDim)
  const out: Reckoned[] = []
  for (let t = 0; t < tokens; t++) {
    for (let h = 0; h < heads; h++) {
      const kv = Math.floor(h / (heads / kvHeads))
      let largest = 0
      const first = request.window ? Math.max(0, start + t + 1 - request.window) : 0
      const scores = Array.from({ length: start + t + 1 - first }, (_, i) => {
        const p = first + i
        let dot = 0
        let size = 0
        for (let d = 0; d < headDim; d++) {
          const term = q[(t * heads + h) * headDim + d]! * heldKeys[(p * kvHeads + kv) * headDim + d]!
          dot += term
          size += Math.abs(term)
        }
        largest = Math.max(largest, size * Math.abs(scale))
        return dot * Math.fround(scale)
      })
      const p = softmax(request.sinks ? [...scores, request.sinks[h]!] : scores).slice(0, scores.length)
      for (let d = 0; d < valueDim; d++) {
        const terms = p.map((w, i) => w * heldValues[((first + i) * kvHeads + kv) * valueDim + d]!)
        const size = terms.reduce((sum, term) => sum + Math.abs(term), 0)
        // an error e of a score is a factor 1 + e of its weight
        out.push({
          value: terms.reduce((sum, term) => sum + term, 0),
          scale: size * (1 + largest * headDim * 0.25),
          terms: scores.length
        })
      }
    }
  }
  return out
}

interface Sampling {
  position: number
  temperature?: number
  topK?: number
  topP?: number
  minP?: number
  repetitionPenalty?: number
  seed?: number
  recent?: Int32Array
  banned?: Int32Array
  allowed?: Uint32Array
}

const mask64 = (1n << 64n) - 1n

/** splitmix64 at (seed, position), 24 bits of it as a number in [0, 1). */
export function uniformAt(seed: number, position: number): number {
  let x = (BigInt(seed) + 0x9e3779b97f4a7c15n * BigInt(position + 1)) & mask64
  x = ((x ^ (x >> 30n)) * 0xbf58476d1ce4e5b9n) & mask64
  x = ((x ^ (x >> 27n)) * 0x94d049bb133111ebn) & mask64
  x ^= x >> 31n
  return Number(x >> 40n) * 2 ** -24
}

const mayCome = (id: number, words?: Uint32Array): boolean =>
  words === undefined || Math.floor((words[Math.floor(id / 32)] ?? 0) / 2 ** (id % 32)) % 2 === 1

/** Tokens that the draw may fall on, in order, with the share of [0, 1) that each has; filters that are close to call are reported. */
export function sampleOracle(logits: Float32Array, options: Sampling): { token: number; close: boolean } {
  const { temperature = 0, topK = 0, topP = 1, minP = 0, repetitionPenalty = 1, seed = 0, position } = options
  const f = Math.fround
  const x = Array.from(logits)
  for (const id of new Set(options.recent ?? []))
    if (x[id] !== undefined) x[id] = f(x[id]! > 0 ? x[id]! / f(repetitionPenalty) : x[id]! * f(repetitionPenalty))
  const banned = new Set(options.banned ?? [])
  const order = x.map((_, id) => id).filter((id) => !banned.has(id) && mayCome(id, options.allowed))
  order.sort((a, b) => x[b]! - x[a]! || a - b)
  if (temperature === 0) return { token: order[0]!, close: false }
  const kept = topK > 0 ? order.slice(0, topK) : order
  const p = softmax(kept.map((id) => (x[id]! - x[order[0]!]!) / temperature))
  const near = (a: number, b: number) => Math.abs(a - b) < 1e-6 * Math.max(a, b)
  let close = false
  let count = kept.length
  if (topP < 1) {
    let sum = 0
    count = 0
    while (count < kept.length && sum < topP) {
      sum += p[count++]!
      close ||= near(sum, topP)
    }
    count = Math.max(count, 1)
  }
  if (minP > 0) {
    for (let i = 1; i < count; i++) close ||= near(p[i]!, minP * p[0]!)
    while (count > 1 && p[count - 1]! < minP * p[0]!) count--
  }
  const total = p.slice(0, count).reduce((a, b) => a + b, 0)
  const target = uniformAt(seed, position) * total
  let sum = 0
  for (let i = 0; i < count; i++) {
    sum += p[i]!
    close ||= i + 1 < count && near(sum, target)
    if (target < sum || i + 1 === count) return { token: kept[i]!, close }
  }
  return { token: kept[0]!, close }
}

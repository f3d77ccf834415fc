// Seeded traces of what a router asks for: one token a step, `k` of `experts` in each layer, by scores of a few known shapes.
import { TraceWriter } from '../dist/esm/tiers/trace.js'
import { seededRandom } from './harness.mjs'

/** Normal numbers from a seeded generator (Box and Muller). */
function normals(seed) {
  const random = seededRandom(seed)
  return () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
}

/**
 * flat: every expert as likely. skewed: router rows of very different lengths, exp(normal), as synth_gguf.py --router-skew 1 writes them.
 * drifting: those lengths walk on, half forgotten after about 140 steps. topics: new lengths every 300 steps, all at once.
 * `sequences` decode together.
 */
export function syntheticTrace({ kind, layers, experts, k, steps, sequences = 1, seed = 1 }) {
  const normal = normals(seed)
  const lengths = Array.from({ length: layers }, () =>
    Array.from({ length: experts }, () => (kind === 'flat' ? 0 : normal()))
  )
  const trace = new TraceWriter()
  for (let step = 0; step < steps; step++) {
    trace.step({ sequences, rows: sequences, prefillRows: 0 })
    for (let layer = 0; layer < layers; layer++) {
      const own = lengths[layer]
      for (let e = 0; e < experts; e++) {
        if (kind === 'drifting') own[e] = 0.995 * own[e] + Math.sqrt(1 - 0.995 ** 2) * normal()
        if (kind === 'topics' && step % 300 === 0) own[e] = normal()
      }
      const wanted = new Set()
      for (let s = 0; s < sequences; s++) {
        const scores = own.map((length, e) => [Math.exp(length) * normal(), e]).sort((a, b) => b[0] - a[0])
        for (const [, e] of scores.slice(0, k)) wanted.add(layer * experts + e)
      }
      trace.layer(
        layer,
        [...wanted].sort((a, b) => a - b)
      )
    }
  }
  return { layers, experts, slots: 0, policy: 'adaptive', seed: 0, model: `${kind}, seeded`, words: trace.words() }
}

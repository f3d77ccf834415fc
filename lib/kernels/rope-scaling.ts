/**
 * RoPE scalings: how rotary frequencies differ from base^(-2i / rotaryDim) where a model was stretched beyond the context that it was trained
 * with. The numbers are made here; csrc/cpu/rope_table.cpp and the WebGPU launches make tables of them.
 *
 * Sources: linear, Chen et al. 2023 (Position Interpolation); YaRN, Peng et al. 2023, sections 3.2 to 3.4; llama3,
 * _compute_llama3_parameters in transformers, whose files for llama.cpp have a tensor of divisors instead (rope_freqs).
 */

/**
 * A frequency f becomes f · (share + (1 - share) / factor), and cosines and sines are multiplied by `magnitude`. The share is 0 without `keep`,
 * else most · clamp((v - none) / (all - none), 0, 1), where v is the number of the pair, or the turns that it makes over `originalContext`.
 */
export interface RopeScaling {
  /** At least 1. */
  factor: number
  /** Above 0. */
  magnitude: number
  keep?: { none: number; all: number; most: number } & ({ by: 'pair' } | { by: 'turns'; originalContext: number })
}

/** The last arguments of the addon's call of rope. */
export function scalingArgs(scaling: RopeScaling | undefined): unknown[] {
  if (scaling === undefined) return []
  const { factor, magnitude, keep } = scaling
  if (!keep) return [factor, magnitude]
  const original = keep.by === 'turns' ? [keep.originalContext] : []
  return [factor, magnitude, keep.by, keep.none, keep.all, keep.most, ...original]
}

/** A frequency scaled, as csrc/cpu/rope_table.cpp does it. */
export function scaledFrequency(frequency: number, pair: number, { factor, keep }: RopeScaling): number {
  if (!keep) return frequency / factor
  const v = keep.by === 'pair' ? pair : (keep.originalContext * frequency) / (2 * Math.PI)
  const share = Math.min(Math.max((v - keep.none) / (keep.all - keep.none), 0), 1) * keep.most
  return frequency * (share + (1 - share) / factor)
}

/** Natural logarithm with the same bits everywhere: x = m · 2^e, 2 artanh((m - 1)/(m + 1)) as a series to z^23. */
export function logOf(x: number): number {
  if (!(x > 0 && x < Infinity)) return Math.log(x) // no m and e; one answer everywhere
  let [m, e] = [x, 0]
  while (m >= Math.SQRT2) [m, e] = [m / 2, e + 1]
  while (m < Math.SQRT1_2) [m, e] = [m * 2, e - 1]
  const z = (m - 1) / (m + 1)
  const square = z * z
  let sum = 0
  for (let n = 23; n >= 1; n -= 2) sum = sum * square + 1 / n
  return e * Math.LN2 + 2 * z * sum
}

/** YaRN's factor of attention: 1 + 0.1 m ln(factor), which makes up for the entropy that interpolation adds. */
export const yarnMagnitude = (factor: number, m = 1): number => (factor > 1 ? 1 + 0.1 * m * logOf(factor) : 1)

export interface YarnParameters {
  factor: number
  base: number
  rotaryDim: number
  /** Positions that the model was trained with before it was stretched. */
  originalContext: number
  /** Pairs with more turns than `betaFast` over the original context keep their frequency; those with fewer than `betaSlow` are interpolated. */
  betaFast: number
  betaSlow: number
  /** The share of its frequency that a fast pair keeps: 1. */
  extrapolation?: number
  /** Whether the pairs between which the share falls are whole numbers, the fast one rounded down and the slow one up. Default true. */
  truncate?: boolean
  /** Multiplies cosines and sines. Default: `yarnMagnitude(factor)`. */
  magnitude?: number
}

export function yarnScaling(y: YarnParameters): RopeScaling {
  // the pair that makes so many turns over the original context: originalContext · base^(-2i / rotaryDim) = turns · 2π
  const pairOf = (turns: number) =>
    (y.rotaryDim * logOf(y.originalContext / (turns * 2 * Math.PI))) / (2 * logOf(y.base))
  const [fast, slow] = [pairOf(y.betaFast), pairOf(y.betaSlow)]
  const truncate = y.truncate ?? true
  const all = Math.max(0, truncate ? Math.floor(fast) : fast)
  const last = Math.min(y.rotaryDim - 1, truncate ? Math.ceil(slow) : slow)
  return {
    factor: y.factor,
    magnitude: y.magnitude ?? yarnMagnitude(y.factor),
    keep: { by: 'pair', all, none: Math.max(last, all + 0.001), most: y.extrapolation ?? 1 }
  }
}

export interface Llama3Parameters {
  factor: number
  originalContext: number
  /** Turns over the original context up to which a frequency is interpolated, and from which on it is kept. */
  lowFrequency: number
  highFrequency: number
}

export const llama3Scaling = (l: Llama3Parameters): RopeScaling => ({
  factor: l.factor,
  magnitude: 1,
  keep: { by: 'turns', none: l.lowFrequency, all: l.highFrequency, most: 1, originalContext: l.originalContext }
})

import type { KernelName } from 'tiered-moe/kernels'

/**
 * How far a kernel may be from the oracle in doubles. Tolerance is data: |got − oracle| ≤ (fixed + perTerm · terms) · 2^-24 · scale +
 * terms · least, where `scale` is the sum of the magnitudes that were added and `terms` their number, both from the oracle.
 */
export interface Tolerance {
  /** Roundings that each result suffers, in units of 2^-24 (half an ulp of 1). */
  fixed: number
  /** Roundings for each term of a sum: 1 where every term is rounded in. */
  perTerm: number
  /** The smallest number that a term may be taken for zero below; default the smallest denormal, 2^-149. */
  least?: number
}

/** A GPU may take denormals for zero before a product with a large number, and round a product before it is added. */
const gpu = { least: 2 ** -100 }

export const tolerances = {
  /** Elementwise work after an exact sum, softmax: exp by Taylor to r^7 (error below 2^-26), 16-lane sum, division. */
  routeWeights: { fixed: 24, perTerm: 1 },
  combine: { fixed: 1, perTerm: 1 },
  /** The square root halves the error of the sum; then two products. */
  rmsNorm: { fixed: 6, perTerm: 0.5 },
  /** A float table, two products; the angle's own error stands in the oracle's scale. */
  rope: { fixed: 6, perTerm: 0 },
  /** Scores, exp of them, weighted sum, division: an error of a score is a relative error of its weight. */
  attention: { fixed: 32, perTerm: 1 },
  /** On a GPU: fma may round twice and division and square root may be off by 2.5 ulp. */
  rmsNormGpu: { fixed: 16, perTerm: 1 },
  /** On a GPU: sines from polynomials in f32, two products that may be rounded apart. */
  ropeGpu: { fixed: 10, perTerm: 0 },
  /** On a GPU: fma may round twice, exp's last product too; sums in strands and chunks have fewer roundings than one chain. */
  attentionGpu: { fixed: 64, perTerm: 2 },
  /** One fma per column. */
  matmulFloat: { fixed: 1, perTerm: 1 },
  /** One product of scales and one fma per block of 32, integer sums exact: terms are blocks. */
  matmulQuantised: { fixed: 2, perTerm: 2 },
  /** Three products in a row, terms of both sums; silu's exp and division. */
  expertFloat: { fixed: 16, perTerm: 1 },
  /**
   * As before, but the hidden row is quantised in between: a float next to a rounding edge moves by one step of 1 / 127 of its block's
   * largest, so that the bound is that of a few such steps and not of float roundings.
   */
  expertQuantised: { fixed: 2 ** 24 / 2000, perTerm: 1 },
  matmulFloatGpu: { fixed: 1, perTerm: 2, ...gpu },
  /** The product of scales, its product with the sum, the sum: each rounded. */
  matmulQuantisedGpu: { fixed: 2, perTerm: 3, ...gpu },
  /** WGSL's division in silu may be off by 2.5 ulp. */
  expertFloatGpu: { fixed: 32, perTerm: 2, ...gpu },
  /** Steps of the hidden row, as on the CPU. */
  expertQuantisedGpu: { fixed: 2 ** 24 / 2000, perTerm: 2, ...gpu },
  logProbability: { fixed: 64, perTerm: 1 },
  /** A whole small model against the CPU, of its largest logit: float weights, the KV cache rounded to f16. */
  modelFloat: { fixed: 2 ** 24 / 2000, perTerm: 0 },
  /** The same with quantised activations: one that lies next to a rounding edge moves by 1 / 127 of its block's largest, layer after layer. */
  modelQuantised: { fixed: 2 ** 24 / 25, perTerm: 0 }
} satisfies Record<string, Tolerance>

/** On a GPU, of golden cases: how far a float may be from the CPU's, in units of 2^-24 of the output's largest. Integers and bytes are equal. */
export const goldenUnits = {
  route: 32,
  dispatch: 0,
  expertMatmul: 2 ** 24 / 2000,
  combine: 4,
  allToAllPack: 0,
  allToAllUnpack: 0,
  rmsNorm: 16,
  rope: 8,
  attention: 64,
  embed: 2,
  logits: 64,
  sample: 64,
  quantize: 0,
  dequantize: 2
} satisfies Record<KernelName, number>

export const bound = ({ fixed, perTerm, least = 2 ** -149 }: Tolerance, scale: number, terms: number): number =>
  (fixed + perTerm * terms) * 2 ** -24 * scale + (terms + 1) * least

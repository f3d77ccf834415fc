/** Sizes of a decoder with a Mixture-of-Experts feed-forward, from a file's metadata, each within the limits below. */
import { type FeedForwardRules, type FeedForwardSizes, readFeedForward } from './feed-forward.js'
import { type GatingSizes, readGating } from './gating.js'
import { type HserSizes, readHser } from './hser.js'
import { type LatentSizes, readLatent } from './latent.js'
import type { Metadata } from './metadata.js'
import { type Multipliers, multiplierKeys, readMultipliers } from './multipliers.js'
import type { RopeScaling } from './plan.js'
import { readRopeScaling } from './rope-scaling.js'
import { readWindows } from './windows.js'

/** Largest sizes that are read: beyond them a file is damaged, not large. */
const LIMITS = {
  layers: 1024,
  /** The router's sums of products are exact in 64 bits up to here. */
  embedding: 2 ** 16,
  width: 2 ** 20,
  heads: 2 ** 14,
  headDim: 4096,
  experts: 4096,
  expertsUsed: 256,
  vocab: 2 ** 24
}

export interface Sizes extends FeedForwardSizes {
  layers: number
  /** Width of the residual stream. */
  embedding: number
  heads: number
  kvHeads: number
  /** Of keys, queries and values; of latent attention, of what the cache holds of a key. */
  headDim: number
  experts: number
  expertsUsed: number
  /** Width inside one expert. */
  feedForward: number
  vocab: number
  contextLength: number
  epsilon: number
  rope: {
    base: number
    rotaryDim: number
    scaling?: RopeScaling
    /** The file has divisors of frequencies (`rope_freqs`). */
    divided?: boolean
  }
  /** Multiplies q · k. */
  attentionScale: number
  /** Whether the chosen experts' weights are made to sum to 1. */
  normalise: boolean
  /** Positions that a token sees in each layer, 0 = all; left out: all layers see all. */
  windows?: readonly number[]
  multipliers?: Multipliers
  /** Of a hierarchical model: its tiers and groups; `expertsUsed` is then the product of what each level chooses. */
  hser?: HserSizes
  latent?: LatentSizes
  gating?: GatingSizes
}

/** What an architecture says of itself where files do not. */
export interface SizeRules extends FeedForwardRules {
  /** Key of the width inside one expert. */
  feedForwardKey: '.feed_forward_length' | '.expert_feed_forward_length'
  normalise: boolean
  /** Multi-head latent attention. */
  latent?: boolean
  /** Embeddings, residual branches and logits are scaled (multipliers.ts). */
  multipliers?: boolean
  /** Layers may have a sliding window: the last of each so many sees all, where a file does not say which do. */
  windowPattern?: number
  /** Values of `expert_gating_func` that mean this architecture's own form. Default 0 and 1, softmax over all experts. */
  gating?: readonly number[]
  /** Routers may have sigmoids, groups and scaled weights (gating.ts). */
  gated?: boolean
}

/** Values that change the computation in a way no plan of this version expresses. Silence would be a wrong answer. */
function refuseUnsupported(m: Metadata, rules: SizeRules): void {
  for (const [key, neutral] of [
    ['.attention.clamp_kqv', 0],
    ['.attention.temperature_scale', 0],
    ['.nextn_predict_layers', 0],
    ...(rules.shared === 'count' ? [] : [['.expert_shared_count', 0] as const]),
    ...(rules.gated ? [] : [['.expert_group_count', 0] as const]),
    ...(rules.latent ? [] : [['.rope.scaling.yarn_log_multiplier', 0] as const]),
    ...(rules.leadingDense ? [] : [['.leading_dense_block_count', 0] as const]),
    ...(rules.windowPattern ? [] : [['.attention.sliding_window', 0] as const]),
    ...(rules.multipliers ? [] : multiplierKeys.map((key) => [key, 0] as const))
  ] as const) {
    if (m.has(key) && m.number(key) !== neutral) m.refuse(key, `${neutral}: anything else is not supported`)
  }
  if (!rules.gated && m.has('.expert_weights_scale') && ![0, 1].includes(m.number('.expert_weights_scale'))) {
    m.refuse('.expert_weights_scale', '1: scaled expert weights are not supported')
  }
  const { gating = [0, 1] } = rules
  if (!rules.gated && m.has('.expert_gating_func') && !gating.includes(m.integer('.expert_gating_func', { min: 0 }))) {
    m.refuse('.expert_gating_func', gating.join(' or '))
  }
  if (
    m.has('.rope.freq_base_swa') &&
    m.number('.rope.freq_base_swa') !== m.number('.rope.freq_base', { default: 10000 })
  ) {
    m.refuse(
      '.rope.freq_base_swa',
      `${m.key('.rope.freq_base')}: another base in layers with a window is not supported`
    )
  }
  if (m.has('split.count') && m.integer('split.count', { min: 0 }) > 1) {
    m.refuse('split.count', '1: a model in several files has to be merged first')
  }
}

/** Reads and checks every size. METADATA_INVALID {key, found, allowed} on the first that is wrong. */
export function readSizes(m: Metadata, rules: SizeRules): Sizes {
  refuseUnsupported(m, rules)
  const layers = m.integer('.block_count', { max: LIMITS.layers })
  const embedding = m.integer('.embedding_length', { max: LIMITS.embedding })
  const heads = m.integer('.attention.head_count', { max: LIMITS.heads })
  const latent = rules.latent ? readLatent(m, heads, LIMITS) : undefined
  const { kvHeads, headDim, keyDim, rotaryDim } = latent ? latentHeads(latent) : readHeads(m, embedding, heads)

  const experts = m.integer('.expert_count', { max: LIMITS.experts })
  const mostUsed = m.integer('.expert_used_count', { max: Math.min(experts, LIMITS.expertsUsed) })
  const hser = readHser(m, experts, mostUsed)
  const expertsUsed = hser ? hser.kTier * hser.kGroup * hser.kExpert : mostUsed
  const wide = { max: LIMITS.width }
  // files of before the expert width had a key of its own: each expert has its share of the whole width
  const feedForward =
    rules.feedForwardKey === '.expert_feed_forward_length' && !m.has(rules.feedForwardKey)
      ? Math.floor(m.integer('.feed_forward_length', wide) / expertsUsed)
      : m.integer(rules.feedForwardKey, wide)
  if (feedForward < 1) m.refuse('.feed_forward_length', `at least the ${expertsUsed} experts used`)
  const gating = rules.gated ? readGating(m, experts, expertsUsed) : undefined
  if (hser && (gating?.form === 'sigmoid' || gating?.groups))
    m.refuse('.hser.tiers', 'none: routes of tiers have no sigmoids and no other groups')

  const base = m.number('.rope.freq_base', { min: 1, max: 1e12, default: 10000 })
  const { scaling, scoreFactor } = readRopeScaling(m, base, rotaryDim)
  const scale = m.has('.attention.scale') ? m.number('.attention.scale', { min: 0, max: 1e6 }) : 0
  return {
    layers,
    embedding,
    heads,
    kvHeads,
    headDim,
    experts,
    expertsUsed,
    feedForward,
    vocab: readVocab(m),
    contextLength: m.integer('.context_length'),
    epsilon: m.number('.attention.layer_norm_rms_epsilon', { min: 0, above: true, max: 1 }),
    rope: { base, rotaryDim, ...(scaling && { scaling }) },
    attentionScale: (scale || 1 / Math.sqrt(keyDim)) * scoreFactor,
    normalise: m.boolean('.expert_weights_norm', rules.normalise),
    ...readFeedForward(m, rules, { layers, feedForward, mostWidth: LIMITS.width }),
    ...(rules.windowPattern && { windows: readWindows(m, layers, rules.windowPattern) }),
    ...(rules.multipliers && { multipliers: readMultipliers(m) }),
    ...(gating && { gating }),
    ...(hser && { hser }),
    ...(latent && { latent })
  }
}

/** `keyDim`: floats of a head whose products make one score. */
interface HeadSizes {
  kvHeads: number
  headDim: number
  keyDim: number
  rotaryDim: number
}

const latentHeads = ({ rank, plain, rotated }: LatentSizes): HeadSizes => ({
  kvHeads: 1,
  headDim: rank + rotated,
  keyDim: plain + rotated,
  rotaryDim: rotated
})

function readHeads(m: Metadata, embedding: number, heads: number): HeadSizes {
  const kvHeads = m.integer('.attention.head_count_kv', { max: LIMITS.heads, default: heads })
  if (heads % kvHeads !== 0) m.refuse('.attention.head_count_kv', `a divisor of the ${heads} heads`)
  if (!m.has('.attention.key_length') && embedding % heads !== 0) {
    m.refuse('.attention.head_count', `a divisor of the width ${embedding}, or ${m.key('.attention.key_length')} given`)
  }
  const headDim = m.integer('.attention.key_length', { max: LIMITS.headDim, default: embedding / heads })
  if (headDim % 2 !== 0) m.refuse('.attention.key_length', `an even head dimension (it is ${headDim})`)
  const valueDim = m.integer('.attention.value_length', { max: LIMITS.headDim, default: headDim })
  if (valueDim !== headDim) m.refuse('.attention.value_length', `${headDim}, equal to the key length`)
  if (heads * headDim > LIMITS.width) m.refuse('.attention.head_count', `heads × ${headDim} of at most ${LIMITS.width}`)
  const rotaryDim = m.integer('.rope.dimension_count', { max: headDim, default: headDim })
  if (rotaryDim % 2 !== 0) m.refuse('.rope.dimension_count', 'an even number')
  return { kvHeads, headDim, keyDim: headDim, rotaryDim }
}

/** The token list decides; a file without one has to state the size. */
function readVocab(m: Metadata): number {
  const key = 'tokenizer.ggml.tokens'
  const tokens = m.get(key)
  if (tokens === undefined) return m.integer('.vocab_size', { max: LIMITS.vocab })
  if (!Array.isArray(tokens) || tokens.length < 1 || tokens.length > LIMITS.vocab) {
    m.refuse(key, `an array of 1 to ${LIMITS.vocab} tokens`)
  }
  return tokens.length
}

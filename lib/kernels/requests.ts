/**
 * What each kernel takes and gives. All arrays are the caller's: read and written in place, never copied, never kept after the call.
 * Shapes are row-major, [rows][columns], as flat typed arrays; sizes in elements. Outputs that are left out are allocated.
 * Every request that does not fit throws VALIDATION_ERROR {argument, expected, actual} before anything is written; so does an output that
 * lies over another array of the call, except where a field says that it may. Arrays must stay as and where they are until the call ends.
 */
import type { DType, KvType } from '../native.js'
import type { RopeScaling } from './rope-scaling.js'

/** A matrix: in the kernels' layout (made by `pack`) for the kernels, in the file's layout (GGUF blocks) for their naive twins. */
export interface Matrix {
  type: DType
  /** Output rows (of one expert). */
  rows: number
  /** Input columns: a multiple of the type's block (32, for the K-quants and IQ4_XS 256). */
  columns: number
  /** 4-byte aligned. Experts follow one another. */
  data: Uint8Array
}

/** The upper levels of a hierarchical route. The tie hash numbers the rows of all routers: experts, then groups, then tiers. */
export interface HserRouting {
  /** [tiers + 1] from 0: tier t owns groups tierGroups[t] … tierGroups[t + 1] - 1. */
  tierGroups: Uint32Array
  /** [groups + 1] from 0: group g owns experts groupExperts[g] … groupExperts[g + 1] - 1. */
  groupExperts: Uint32Array
  /** [tiers][width] and [groups][width] 24-bit integers, from `packRouter`, with their exponents. */
  tierRouter: Int32Array
  tierRouterExponent: number
  groupRouter: Int32Array
  groupRouterExponent: number
  /** Chosen per token: tiers, groups of each chosen tier, experts of each chosen group. */
  kTier: number
  kGroup: number
  kExpert: number
  /** Most experts that may be active per token, at most 256 (the default): kTier · kGroup · kExpert stays within it. */
  bound?: number
}

/** A limit of the choice, as DeepSeek's models have it: experts in equal groups, in order, of which the best stay. */
export interface RouteGroups {
  /** Groups, 1 to 256: a divisor of `experts`. */
  count: number
  /** Groups that stay; fewer where fewer have an enabled expert. */
  used: number
  /** A group's score: `max` (default), its best expert's; `top2`, the sum of its two best (form `sigmoid`). */
  score?: 'max' | 'top2'
}

export interface RouteRequest {
  /** [tokens][width] f32: normalised hidden states, finite. */
  states: Float32Array
  /** [experts][width] 24-bit integers, from `packRouter`, with their exponent. */
  router: Int32Array
  routerExponent: number
  experts: number
  /** Experts chosen per token, at most the number enabled; `hser`: kTier · kGroup · kExpert. */
  k: number
  /**
   * `softmax_topk` (default): softmax over the enabled experts, then the k best; `topk_softmax`: softmax over the k best; `sigmoid`: the k best,
   * weighed by their sigmoids; `hser`: the best tiers, of each the best groups, of each the best experts, every weight the product of three
   * softmaxes over what is enabled.
   */
  form?: 'softmax_topk' | 'topk_softmax' | 'sigmoid' | 'hser'
  /** [experts] 24-bit integers, from `packBias`, with their exponent: added to the scores before anything else (gpt-oss). Not of `hser`. */
  bias?: Int32Array
  biasExponent?: number
  /**
   * [experts] integers of 2^-30, from `packSelectionBias`, of `sigmoid`: experts are then ranked by sigmoid + bias, both in units of 2^-30, and
   * weighed by the sigmoid alone (DeepSeek-V3).
   */
  selectionBias?: BigInt64Array
  /** Not of `hser`. Whichever groups stay, they need k enabled experts together. */
  groups?: RouteGroups
  /** Of `hser`: `router` is then the experts' router, in (tier, group, expert) order. */
  hser?: HserRouting
  /** Divide the k weights by their sum and 1e-20 more, which matters where all are zero. */
  normalise?: boolean
  /** Multiplies each weight, after `normalise`; default 1. */
  scale?: number
  /** Enters the hash that breaks exact ties. */
  layer?: number
  /** 4 × u32; enters the same hash. */
  seed?: Uint32Array
  /** [tokens] absolute positions; their number is the number of tokens. */
  positions: Uint32Array
  /** [experts], 0 = not to be chosen (a TierSet's mask). A group without an enabled expert is disabled, a tier without such a group too. */
  enabled?: Uint8Array
  /**
   * [tokens]: `enabled` is then several masks, [masks][experts], and each token names its own; 0xffffffff = all enabled. Tokens of requests
   * with different TierSets go through one call so.
   */
  maskOf?: Uint32Array
  /** out [tokens][k], best first; `hser`: by rank of tier, then of group, then of expert. */
  ids?: Int32Array
  /** out [tokens][k] f32. */
  weights?: Float32Array
  /** out [tokens][experts]: the exact scores without `bias` (routing output). `hser`: [tokens][experts + groups + tiers], -2^63 for rows not asked. */
  scores?: BigInt64Array
}
export interface RouteResult {
  ids: Int32Array
  weights: Float32Array
  scores?: BigInt64Array
}

export interface DispatchRequest {
  /** [tokens][k] expert ids. */
  ids: Int32Array
  k: number
  experts: number
  /** out [experts + 1]: expert e owns rows offsets[e] … offsets[e + 1] - 1. */
  offsets?: Uint32Array
  /** out [tokens · k]: the slot (token · k + choice) of each row. */
  slots?: Uint32Array
  /** out [tokens · k]: the row of each slot. */
  rows?: Uint32Array
}
export interface DispatchResult {
  offsets: Uint32Array
  slots: Uint32Array
  rows: Uint32Array
}

export interface CombineRequest {
  /** [tokens · k][width] f32 in row order. */
  values: Float32Array
  /** [tokens][k]; sums run in ascending expert id. */
  ids: Int32Array
  weights: Float32Array
  /** [tokens · k], from dispatch. */
  rows: Uint32Array
  k: number
  experts: number
  width: number
  /** Add to `out` instead of replacing it. */
  add?: boolean
  /** out [tokens][width] f32. */
  out?: Float32Array
}

export interface ExpertMatmulRequest {
  /** [tokens][width] f32. */
  x: Float32Array
  k: number
  /** From dispatch. */
  offsets: Uint32Array
  slots: Uint32Array
  /** [hidden × width], [hidden × width] and [width × hidden] per expert. */
  gate: Matrix
  up: Matrix
  down: Matrix
  /**
   * What is made of g = gate · x and u = up · x. `silu` (the default): g · sigmoid(g) · u (SwiGLU, Shazeer 2020). `clamped_swiglu`:
   * g' · sigmoid(1.702 g') · (u' + 1) with g' = min(g, 7) and u' = clamp(u, -7, 7) (gpt-oss).
   */
  activation?: ExpertActivation
  /** Added once to each finished product: [experts][hidden], [experts][hidden], [experts][width] f32, any of them. */
  biases?: { gate?: Float32Array; up?: Float32Array; down?: Float32Array }
  /** out [tokens · k][width] f32 in row order: down · activation(gate · x, up · x). */
  out?: Float32Array
}

export type ExpertActivation = 'silu' | 'clamped_swiglu'

export interface AllToAllPackRequest {
  /** [tokens][width] f32. */
  x: Float32Array
  width: number
  k: number
  offsets: Uint32Array
  slots: Uint32Array
  /** EP ranks; experts are split evenly in ascending order, the first ranks one more. */
  ranks: number
  /** out [tokens · k][width] f32: rows by rank, expert, slot. */
  out?: Float32Array
  /** out [ranks]: rows for each rank. */
  rankRows?: Uint32Array
}
export interface AllToAllPackResult {
  out: Float32Array
  rankRows: Uint32Array
}

export interface AllToAllUnpackRequest {
  /** [tokens · k][width] f32 in row order. */
  packed: Float32Array
  width: number
  k: number
  offsets: Uint32Array
  slots: Uint32Array
  /** out [tokens · k][width] f32 in slot order. */
  out?: Float32Array
}

export interface RmsNormRequest {
  /** [rows][n] f32, n = weight.length. */
  x: Float32Array
  weight: Float32Array
  epsilon: number
  /** out [rows][n] f32; may be `x`. */
  out?: Float32Array
}

export interface RopeRequest {
  /** [tokens][heads][headDim] f32, rotated in place. */
  x: Float32Array
  /** [tokens] absolute positions. */
  positions: Uint32Array
  heads: number
  headDim: number
  /** Even, at most headDim (the default). */
  rotaryDim?: number
  base: number
  pairs?: 'neox' | 'interleaved'
  /** `yarnScaling` and `llama3Scaling` make one; { factor, magnitude: 1 } interpolates linearly. */
  scaling?: RopeScaling
  /** [rotaryDim / 2]: frequencies are divided by these; each at least 2^-30. */
  divisors?: Float32Array
}

export interface AttentionRequest {
  /** [tokens][heads][headDim], [tokens][kvHeads][headDim], [tokens][kvHeads][valueDim] f32. */
  q: Float32Array
  k: Float32Array
  v: Float32Array
  /** One layer of one sequence's cache, at least `kvCacheBytes` for start + tokens positions; 4-byte aligned. Written, then read. */
  cache: Uint8Array
  /** Positions that the cache holds already. */
  start: number
  heads: number
  kvHeads: number
  headDim: number
  valueDim?: number
  /** 1 / √headDim by default. */
  scale?: number
  kvType?: KvType
  /** A token sees so many positions at most, its own the last; 0 (the default): all before it. */
  window?: number
  /** [heads] f32: a score without a value for each head, which joins the max and is added last to the softmax sum (gpt-oss). */
  sinks?: Float32Array
  /** out [tokens][heads][valueDim] f32. */
  out?: Float32Array
}

export interface EmbedRequest {
  /** Table in the file's layout, [rows × columns]. */
  table: Matrix
  /** Row numbers. */
  ids: Int32Array
  /** out [ids][columns] f32. */
  out?: Float32Array
}

export interface LogitsRequest {
  /** [tokens][columns] f32. */
  states: Float32Array
  weight: Matrix
  /** out [tokens][rows] f32. */
  out?: Float32Array
}

export interface SampleRequest {
  /** [vocab] f32, finite. */
  logits: Float32Array
  /** Absolute position of the token that is drawn: with the seed it alone decides the draw. */
  position: number
  /** 0 (default) = the largest logit, smallest id first. */
  temperature?: number
  topK?: number
  topP?: number
  minP?: number
  repetitionPenalty?: number
  seed?: number
  /** 0 to 20 alternatives with log probabilities; left out = none at all. */
  topLogprobs?: number
  /** Tokens that the repetition penalty looks back at. */
  recent?: Int32Array
  /** Tokens that are never drawn. */
  banned?: Int32Array
  /** A bit for each token that may be drawn, the least bit of each word first; tokens beyond may not. Left out: all may. */
  allowed?: Uint32Array
}
export interface SampleResult {
  token: number
  logprob?: number
  top?: { ids: Int32Array; logprobs: Float32Array }
}

export interface QuantizeRequest {
  type: DType
  /** [rows][columns] f32, finite. */
  x: Float32Array
  columns: number
  /** out: blocks in the file's layout. */
  out?: Uint8Array
}

export interface DequantizeRequest {
  type: DType
  /** Blocks in the file's layout. */
  data: Uint8Array
  columns: number
  /** out [rows][columns] f32. */
  out?: Float32Array
}

/** Each kernel's request and result. */
export interface KernelTable {
  route: { request: RouteRequest; result: RouteResult }
  dispatch: { request: DispatchRequest; result: DispatchResult }
  expertMatmul: { request: ExpertMatmulRequest; result: Float32Array }
  combine: { request: CombineRequest; result: Float32Array }
  allToAllPack: { request: AllToAllPackRequest; result: AllToAllPackResult }
  allToAllUnpack: { request: AllToAllUnpackRequest; result: Float32Array }
  rmsNorm: { request: RmsNormRequest; result: Float32Array }
  rope: { request: RopeRequest; result: Float32Array }
  attention: { request: AttentionRequest; result: Float32Array }
  embed: { request: EmbedRequest; result: Float32Array }
  logits: { request: LogitsRequest; result: Float32Array }
  sample: { request: SampleRequest; result: SampleResult }
  quantize: { request: QuantizeRequest; result: Uint8Array }
  dequantize: { request: DequantizeRequest; result: Float32Array }
}
export type KernelName = keyof KernelTable

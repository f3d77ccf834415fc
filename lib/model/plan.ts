/**
 * A plan: one forward call as a short list of named operations over named buffers, with the tensors that it reads.
 * Every backend executes the same plan; lib/model/<architecture>.ts writes one declaratively.
 *
 * A buffer is a row per token, `width` floats each. `h` is read by an operation's `in`, written by its `out`.
 */

import type { ExpertActivation } from '../kernels/requests.js'
import type { RopeScaling } from '../kernels/rope-scaling.js'

export type { RopeScaling } from '../kernels/rope-scaling.js'

/** What a tensor is for; it decides the layout that it is kept in. */
export type TensorRole =
  /** Rows are looked up by token id. */
  | 'embedding'
  /** [columns, rows]: multiplied by activations. */
  | 'matrix'
  /** [columns, rows, experts]: one matrix per expert. */
  | 'experts'
  /** [columns, experts] (or groups, or tiers): router weights, kept as 24-bit integers. */
  | 'router'
  /** [n], or [n, experts] (one for each expert): kept as floats. */
  | 'vector'
  /** [experts]: added to a router's scores; kept as 24-bit integers. */
  | 'routerBias'
  /** [experts]: added to sigmoids for the selection alone; kept in units of 2^-30. */
  | 'selectionBias'
  /** [columns, rows, heads]: one matrix per attention head. */
  | 'heads'

/** Roles of routers, which are loaded after the experts. */
export const isRouterRole = (role: TensorRole): boolean =>
  role === 'router' || role === 'routerBias' || role === 'selectionBias'

/** Roles whose tensors are read whole and kept as numbers. */
export const isReadWhole = (role: TensorRole): boolean => role === 'vector' || isRouterRole(role)

/**
 * A matrix per head out of a file's matrix [columns, heads · height]: of each head's rows those from `first` on. `transposed`: these rows are
 * the matrix's columns, and it is kept in F32, because blocks of another type do not turn round.
 */
export interface HeadCut {
  height: number
  first: number
  transposed: boolean
}

export interface PlanTensor {
  name: string
  role: TensorRole
  /** Innermost first, as GGUF has it. */
  shape: number[]
  /** Name of the file's tensor where it is another: a tied output matrix is read from the embedding table. */
  source?: string
  /** Of the role `heads`: how the file's tensor is cut into them, where it is not one matrix per head already. */
  cut?: HeadCut
}

export type RouteForm =
  /** Softmax over every expert, then the k largest (renormalised to sum 1 where `normalise`). */
  | 'softmax_topk'
  /** The k largest, then softmax over these. */
  | 'topk_softmax'
  /** A sigmoid of each score; the k largest of sigmoid + selectionBias, weighed by the sigmoids alone. */
  | 'sigmoid'
  /** The best tiers, of each the best groups, of each the best experts; a weight is the product of three softmaxes. */
  | 'hser'

/** A limit of the choice: experts in equal groups, of which the best stay. */
export interface RouteGroups {
  /** Groups, at most 256: a divisor of the experts. */
  count: number
  /** Groups that stay. */
  used: number
  /** A group's score: its best expert's, or the sum of its two best (of the form `sigmoid`). */
  score: 'max' | 'top2'
}

/** The upper levels of a hierarchical route; the operation's `weight` is the experts' router, in (tier, group, expert) order. */
export interface PlanHser {
  tierRouter: string
  groupRouter: string
  /** Offsets, one more than there are tiers: tier t owns groups tierGroups[t] … tierGroups[t + 1] - 1. */
  tierGroups: number[]
  /** Offsets, one more than there are groups, into the experts. */
  groupExperts: number[]
  kTier: number
  kGroup: number
  kExpert: number
  /** Most experts that may be active per token. */
  bound: number
}

export type PlanOp =
  /** out[t] = row `token[t]` of the table. */
  | { op: 'embed'; table: string; out: string }
  /**
   * Each run of `weight.length` floats of `in` divided by its root mean square, times the weight. `runs`: only so many of a row, from its
   * begin and in place; what is behind them stays.
   */
  | { op: 'rmsNorm'; in: string; weight: string; out: string; epsilon: number; runs?: number }
  /** out = W · in + bias for each part, the bias added once to the finished product; `add` adds all that to what the buffer holds. */
  | { op: 'matmul'; in: string; parts: { weight: string; out: string; bias?: string }[]; add?: boolean }
  /** Rotary embedding in place: pairs (i, i + dim/2) for `neox`, (2i, 2i + 1) for `interleaved`, of the `rotaryDim` floats of a head from `offset` on. */
  | {
      op: 'rope'
      buffer: string
      heads: number
      headDim: number
      rotaryDim: number
      /** 0 where it is left out. */
      offset?: number
      base: number
      pairs: 'neox' | 'interleaved'
      scaling?: RopeScaling
      /** A vector [rotaryDim / 2]: frequencies are divided by it. */
      divisors?: string
    }
  /** buffer *= by. */
  | { op: 'scale'; buffer: string; by: number }
  /**
   * Appends k and v to the layer's cache, then causal attention of q over it: over the last `window` positions where there is one. `sinks`, a
   * vector [heads]: a score without a value for each head, which joins the max and is added last to the softmax sum. Where `v` is `k`, of
   * one head, values are the first floats of the keys.
   */
  | {
      op: 'attention'
      q: string
      k: string
      v: string
      out: string
      heads: number
      kvHeads: number
      headDim: number
      valueDim: number
      scale: number
      layer: number
      window?: number
      sinks?: string
    }
  /** Chooses k experts per token from the exact integer scores of `in`. */
  | {
      op: 'route'
      in: string
      weight: string
      k: number
      form: RouteForm
      normalise: boolean
      /** Each weight is multiplied by it, after `normalise`; default 1. */
      scale?: number
      /** Tensor of the role routerBias, added to the scores; not of the form `hser`. */
      bias?: string
      /** Tensor of the role selectionBias; of the form `sigmoid`. */
      selectionBias?: string
      /** Not of the form `hser`. */
      groups?: RouteGroups
      layer: number
      /** Of the form `hser`. */
      hser?: PlanHser
    }
  /**
   * Dispatch, expert matmul (down · activation(gate · in, up · in)), combine in expert-id order; adds to `out`. `biases`: vectors [rows, experts],
   * each added once to the finished product; they stay in memory whatever their experts do.
   */
  | {
      op: 'experts'
      in: string
      gate: string
      up: string
      down: string
      activation: ExpertActivation
      biases?: Record<'gate' | 'up' | 'down', string>
      out: string
      layer: number
    }
  /** The middle of a gated feed-forward, in place: buffer = silu(gate) ∘ buffer. Of the form `sigmoid` a row has one gate, and is scaled by its sigmoid. */
  | { op: 'gated'; buffer: string; gate: string; form: 'silu' | 'sigmoid' }
  /** Head by head: out = W[head] · in, of a head's first floats; those behind them follow the product as they are. */
  | { op: 'headMatmul'; in: string; weight: string; out: string }
  /** Logits of the positions asked for. */
  | { op: 'logits'; in: string; weight: string }

/** A plan's operation of one kind. */
export type OpOf<Name extends PlanOp['op']> = Extract<PlanOp, { op: Name }>

export interface Plan {
  /** Floats per token of every buffer. */
  buffers: Record<string, number>
  tensors: PlanTensor[]
  ops: PlanOp[]
  /** Sizes that the executor needs to allocate for. */
  layers: number
  vocab: number
  contextLength: number
  /** Routing seed, 4 × u32: breaks exact ties of scores. */
  routingSeed: [number, number, number, number]
}

/**
 * Writes a plan operation by operation. Each call adds the operation and the tensors that it reads; their shapes follow from
 * the buffers' widths, so an architecture's file states every size once.
 */
import type { ExpertActivation } from '../kernels/requests.js'
import { groupCount, planHser } from './hser.js'
import type { HeadCut, OpOf, Plan, PlanOp, PlanTensor, RouteForm, RouteGroups, TensorRole } from './plan.js'
import type { Sizes } from './sizes.js'

/** The routing seed of a plain model: any constant will do, as long as it is the same everywhere. */
export const DEFAULT_ROUTING_SEED: Plan['routingSeed'] = [0x9e3779b9, 0x7f4a7c15, 0xf39cc060, 0x5cedc834]

/** What a flat route has beside its router. */
export interface RouteExtras {
  /** The router has a bias: `<block>.ffn_gate_inp.bias`. */
  bias?: boolean
  /** The selection has one: `<block>.exp_probs_b.bias`. */
  selectionBias?: boolean
  /** Left out, or one group: every expert can be chosen. */
  groups?: RouteGroups | undefined
  /** Default 1. */
  scale?: number
}

export class PlanWriter<Buffer extends string> {
  private readonly ops: PlanOp[] = []
  private readonly tensors = new Map<string, PlanTensor>()

  /** @param buffers floats per token of each buffer; 0: the model has no use for it */
  constructor(
    private readonly sizes: Sizes,
    private readonly buffers: Record<Buffer, number>
  ) {}

  private tensor(name: string, role: TensorRole, shape: number[], source?: string): string {
    const full = `${name}.weight`
    this.tensors.set(full, { name: full, role, shape, ...(source ? { source: `${source}.weight` } : {}) })
    return full
  }

  /** The bias of a tensor: [rows], or [rows, experts]. */
  private bias(name: string, shape: number[], role: 'vector' | 'routerBias' | 'selectionBias' = 'vector'): string {
    const full = `${name}.bias`
    this.tensors.set(full, { name: full, role, shape })
    return full
  }

  embed(table: string, out: Buffer): void {
    const name = this.tensor(table, 'embedding', [this.buffers[out], this.sizes.vocab])
    this.ops.push({ op: 'embed', table: name, out })
  }

  /** `length`: floats that share one root mean square; the whole row where it is left out. `runs`: see the plan's operation. */
  rmsNorm(input: Buffer, weight: string, out: Buffer, length: number = this.buffers[input], runs?: number): void {
    const name = this.tensor(weight, 'vector', [length])
    this.ops.push({ op: 'rmsNorm', in: input, weight: name, out, epsilon: this.sizes.epsilon, ...(runs && { runs }) })
  }

  /** One product per entry {weight: out}; `bias`: each has one. */
  matmul(input: Buffer, parts: Record<string, Buffer>, { add = false, bias = false } = {}): void {
    const named = Object.entries(parts).map(([weight, out]) => ({
      weight: this.tensor(weight, 'matrix', [this.buffers[input], this.buffers[out]]),
      out,
      ...(bias && { bias: this.bias(weight, [this.buffers[out]]) })
    }))
    this.ops.push({ op: 'matmul', in: input, parts: named, ...(add ? { add } : {}) })
  }

  /** `offset`: floats of a head before those that are rotated. */
  rope(buffer: Buffer, heads: number, pairs: OpOf<'rope'>['pairs'], offset = 0): void {
    const { rope } = this.sizes
    const { rotaryDim, base, scaling } = rope
    const headDim = this.buffers[buffer] / heads
    const divisors = rope.divided ? { divisors: this.tensor('rope_freqs', 'vector', [rotaryDim / 2]) } : {}
    this.ops.push({
      op: 'rope',
      buffer,
      heads,
      headDim,
      rotaryDim,
      base,
      pairs,
      ...(offset && { offset }),
      ...(scaling && { scaling }),
      ...divisors
    })
  }

  /** Nothing where `by` is 1. */
  scale(buffer: Buffer, by: number): void {
    if (by !== 1) this.ops.push({ op: 'scale', buffer, by })
  }

  attention(
    layer: number,
    { q, k, v, out }: Record<'q' | 'k' | 'v' | 'out', Buffer>,
    { sinks }: { sinks?: string } = {}
  ): void {
    const { heads, kvHeads, headDim, attentionScale: scale, windows } = this.sizes
    const window = windows?.[layer] ?? 0
    this.ops.push({
      op: 'attention',
      q,
      k,
      v,
      out,
      heads,
      kvHeads,
      headDim,
      valueDim: this.buffers[out] / heads,
      scale,
      layer,
      ...(window > 0 && { window }),
      ...(sinks && { sinks: this.tensor(sinks, 'vector', [heads]) })
    })
  }

  /** Each head's first `columns` floats times a matrix of its own; `cut` out of the file's tensor `source`, where it is another. */
  headMatmul(input: Buffer, weight: string, out: Buffer, columns: number, cut?: HeadCut & { source: string }): void {
    const { heads } = this.sizes
    const carried = this.buffers[input] / heads - columns
    const name = this.tensor(weight, 'heads', [columns, this.buffers[out] / heads - carried, heads], cut?.source)
    if (cut) {
      const { height, first, transposed } = cut
      this.tensors.get(name)!.cut = { height, first, transposed }
    }
    this.ops.push({ op: 'headMatmul', in: input, weight: name, out })
  }

  /**
   * Adds down · (silu(gate · in) ∘ up · in) to `out`, through the buffers `inner`. `by`: all of it times the sigmoid of one product more,
   * a number per row.
   */
  feedForward(
    input: Buffer,
    names: Record<'gate' | 'up' | 'down', string>,
    inner: Record<'gate' | 'up', Buffer>,
    out: Buffer,
    by?: { weight: string; gate: Buffer }
  ): void {
    const { gate, up } = inner
    this.matmul(input, { [names.gate]: gate, [names.up]: up, ...(by && { [by.weight]: by.gate }) })
    this.ops.push({ op: 'gated', buffer: up, gate, form: 'silu' })
    // The product with `down` is linear: its input is as good a place for the factor as its output.
    if (by) this.ops.push({ op: 'gated', buffer: up, gate: by.gate, form: 'sigmoid' })
    this.matmul(up, { [names.down]: out }, { add: true })
  }

  /** `form`: of a flat model; a hierarchical one has its own. */
  route(
    layer: number,
    input: Buffer,
    block: string,
    form: Exclude<RouteForm, 'hser'>,
    { bias = false, selectionBias = false, groups, scale = 1 }: RouteExtras = {}
  ): void {
    const { experts, expertsUsed: k, normalise, hser } = this.sizes
    const router = (name: string, rows: number) =>
      this.tensor(`${block}.${name}`, 'router', [this.buffers[input], rows])
    const common = { op: 'route', in: input, k, normalise, layer, ...(scale !== 1 && { scale }) } as const
    if (!hser) {
      this.ops.push({
        ...common,
        weight: router('ffn_gate_inp', experts),
        form,
        ...(bias && { bias: this.bias(`${block}.ffn_gate_inp`, [experts], 'routerBias') }),
        ...(selectionBias && { selectionBias: this.bias(`${block}.exp_probs_b`, [experts], 'selectionBias') }),
        ...(groups && groups.count > 1 && { groups })
      })
      return
    }
    const tiers = router('ffn_tier_router', hser.tiers.length)
    const upper = router('ffn_group_router', groupCount(hser))
    const weight = router('ffn_expert_router', experts)
    this.ops.push({ ...common, weight, form: 'hser', hser: planHser(hser, tiers, upper) })
  }

  /** Adds the experts' weighted sum to `out`. `biases`: every matrix has one for each expert. */
  experts(
    layer: number,
    input: Buffer,
    names: Record<'gate' | 'up' | 'down', string>,
    out: Buffer,
    { activation = 'silu', biases = false }: { activation?: ExpertActivation; biases?: boolean } = {}
  ): void {
    const { experts, feedForward } = this.sizes
    const inner = [this.buffers[input], feedForward, experts]
    const bias = (name: string, rows: number) => this.bias(name, [rows, experts])
    this.ops.push({
      op: 'experts',
      in: input,
      gate: this.tensor(names.gate, 'experts', inner),
      up: this.tensor(names.up, 'experts', inner),
      down: this.tensor(names.down, 'experts', [feedForward, this.buffers[out], experts]),
      activation,
      out,
      layer,
      ...(biases && {
        biases: {
          gate: bias(names.gate, feedForward),
          up: bias(names.up, feedForward),
          down: bias(names.down, this.buffers[out])
        }
      })
    })
  }

  /** `tied`: the table that stands in for a matrix that the file does not have. */
  logits(input: Buffer, weight: string, tied?: string): void {
    const name = this.tensor(weight, 'matrix', [this.buffers[input], this.sizes.vocab], tied)
    this.ops.push({ op: 'logits', in: input, weight: name })
  }

  finish(): Plan {
    const { layers, vocab, contextLength } = this.sizes
    return {
      buffers: Object.fromEntries(Object.entries<number>(this.buffers).filter(([, width]) => width > 0)),
      tensors: [...this.tensors.values()],
      ops: this.ops,
      layers,
      vocab,
      contextLength,
      routingSeed: [...DEFAULT_ROUTING_SEED]
    }
  }
}

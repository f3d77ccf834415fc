/** A plan run in float64 by the plainest loops, as an oracle for whole models. Small ones only. */
import type { Plan, PlanOp } from '../../lib/model/plan.js'
import { naiveAttention } from './naive-attention.js'
import { naiveActivation } from './naive-experts.js'
import { naiveRope } from './naive-rope.js'
import { gated, headMatmul, headMatrices } from './naive-latent.js'

/** Floats of a file's tensor. */
export type ReadTensor = (name: string) => Float32Array

type Rows = number[][]

const dot = (a: ArrayLike<number>, b: ArrayLike<number>, at = 0): number => {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[at + i]!
  return sum
}

function softmax(x: number[]): number[] {
  const max = Math.max(...x)
  const e = x.map((v) => Math.exp(v - max))
  const sum = e.reduce((a, b) => a + b, 0)
  return e.map((v) => v / sum)
}

/** Rows of `weight`, which starts at `at`, times x. */
function multiply(weight: Float32Array, x: number[], rows: number, at = 0): number[] {
  return Array.from({ length: rows }, (_, r) => dot(x, weight, at + r * x.length))
}

type RouteOp = Extract<PlanOp, { op: 'route' }>

/** A TierSet: whether an expert of a layer may be chosen. */
export type Enabled = (layer: number, expert: number) => boolean

interface Choice {
  expert: number
  weight: number
}

/** The k best rows of a router among [first, last) that are enabled, with their softmax over these. */
function bestOf(scores: number[], first: number, last: number, k: number, on: (row: number) => boolean): Choice[] {
  const rows = Array.from({ length: last - first }, (_, i) => first + i).filter(on)
  const p = softmax(rows.map((row) => scores[row]!))
  const all = rows.map((row, i) => ({ expert: row, weight: p[i]! }))
  return all.sort((a, b) => b.weight - a.weight).slice(0, k)
}

/** Tiers, then groups of the chosen tiers, then experts of the chosen groups. */
function routeHser(x: number[], read: (name: string) => Float32Array, op: RouteOp, enabled?: Enabled): Choice[] {
  const { tierRouter, groupRouter, tierGroups, groupExperts, kTier, kGroup, kExpert } = op.hser!
  const scoresOf = (weight: Float32Array) => multiply(weight, x, weight.length / x.length)
  const [tiers, groups, experts] = [tierRouter, groupRouter, op.weight].map((name) => scoresOf(read(name)))
  const expertOn = (e: number) => !enabled || enabled(op.layer, e)
  const within = (offsets: number[], part: number, on: (i: number) => boolean) => {
    for (let i = offsets[part]!; i < offsets[part + 1]!; i++) if (on(i)) return true
    return false
  }
  const groupOn = (g: number) => within(groupExperts, g, expertOn)
  const out: Choice[] = []
  for (const tier of bestOf(tiers!, 0, tiers!.length, kTier, (t) => within(tierGroups, t, groupOn))) {
    const [firstGroup, lastGroup] = [tierGroups[tier.expert]!, tierGroups[tier.expert + 1]!]
    for (const group of bestOf(groups!, firstGroup, lastGroup, kGroup, groupOn)) {
      const [first, last] = [groupExperts[group.expert]!, groupExperts[group.expert + 1]!]
      for (const { expert, weight } of bestOf(experts!, first, last, kExpert, expertOn))
        out.push({ expert, weight: tier.weight * group.weight * weight })
    }
  }
  const sum = op.normalise ? out.reduce((a, { weight }) => a + weight, 0) : 1
  return out.map(({ expert, weight }) => ({ expert, weight: weight / sum }))
}

function route(x: number[], weight: Float32Array, op: RouteOp, enabled?: Enabled): Choice[] {
  const all = multiply(weight, x, weight.length / x.length)
  const scores = all.map((score, expert) => (!enabled || enabled(op.layer, expert) ? score : Number.NEGATIVE_INFINITY))
  const byScore = scores.map((score, expert) => ({ score, expert })).sort((a, b) => b.score - a.score)
  const chosen = byScore.slice(0, op.k)
  const of = op.form === 'softmax_topk' ? softmax(scores) : softmax(chosen.map(({ score }) => score))
  const weights = chosen.map(({ expert }, i) => of[op.form === 'softmax_topk' ? expert : i]!)
  const sum = op.normalise ? weights.reduce((a, b) => a + b, 0) : 1
  return chosen.map(({ expert }, i) => ({ expert, weight: weights[i]! / sum }))
}

/** Logits [tokens][vocab] of one sequence from position 0. */
export function naiveForward(plan: Plan, read: ReadTensor, tokens: readonly number[], enabled?: Enabled): Rows {
  const tensor = (name: string) => read(plan.tensors.find((t) => t.name === name)?.source ?? name)
  const buffers: Record<string, Rows> = {}
  let choices: Choice[][] = []
  let logits: Rows = []
  for (const op of plan.ops) {
    if (op.op === 'embed') {
      const table = tensor(op.table)
      const width = plan.buffers[op.out]!
      buffers[op.out] = tokens.map((id) => [...table.subarray(id * width, (id + 1) * width)])
    } else if (op.op === 'rmsNorm') {
      const weight = tensor(op.weight)
      const n = weight.length
      buffers[op.out] = buffers[op.in]!.map((row) =>
        row.map((value, i) => {
          if (op.runs && i >= op.runs * n) return value
          const part = row.slice(i - (i % n), i - (i % n) + n)
          return (value / Math.sqrt(dot(part, part) / n + op.epsilon)) * weight[i % n]!
        })
      )
    } else if (op.op === 'matmul') {
      const input = buffers[op.in]!
      for (const { weight, out, bias } of op.parts) {
        const added = bias === undefined ? [] : tensor(bias)
        const products = input.map((x) => multiply(tensor(weight), x, plan.buffers[out]!))
        const rows = products.map((row) => row.map((value, i) => value + (added[i] ?? 0)))
        const before = buffers[out]
        buffers[out] = op.add && before ? rows.map((row, t) => row.map((value, i) => value + before[t]![i]!)) : rows
      }
    } else if (op.op === 'rope') {
      const divisors = op.divisors === undefined ? undefined : tensor(op.divisors)
      for (const [position, row] of buffers[op.buffer]!.entries()) naiveRope(row, position, op, divisors)
    } else if (op.op === 'attention') {
      const sinks = op.sinks === undefined ? undefined : tensor(op.sinks)
      buffers[op.out] = naiveAttention(buffers[op.q]!, buffers[op.k]!, buffers[op.v]!, op, sinks)
    } else if (op.op === 'route') {
      choices = buffers[op.in]!.map((x) =>
        op.form === 'hser' ? routeHser(x, tensor, op, enabled) : route(x, tensor(op.weight), op, enabled)
      )
    } else if (op.op === 'experts') {
      const hidden = plan.tensors.find((t) => t.name === op.gate)!.shape[1]!
      const out = buffers[op.out]!
      for (const [t, x] of buffers[op.in]!.entries()) {
        for (const { expert, weight } of choices[t]!) {
          const at = expert * hidden * x.length
          const gate = multiply(tensor(op.gate), x, hidden, at)
          const up = multiply(tensor(op.up), x, hidden, at)
          const bias = (name: 'gate' | 'up' | 'down', i: number, rows: number) =>
            op.biases ? tensor(op.biases[name])[expert * rows + i]! : 0
          const inner = gate.map((g, i) =>
            naiveActivation(op.activation, g + bias('gate', i, hidden), up[i]! + bias('up', i, hidden))
          )
          const width = out[t]!.length
          const down = multiply(tensor(op.down), inner, width, expert * hidden * width)
          out[t] = out[t]!.map((value, i) => value + weight * (down[i]! + bias('down', i, width)))
        }
      }
    } else if (op.op === 'gated') {
      buffers[op.buffer] = buffers[op.buffer]!.map((row, t) => gated(row, buffers[op.gate]![t]!, op))
    } else if (op.op === 'headMatmul') {
      const described = plan.tensors.find(({ name }) => name === op.weight)!
      const matrices = headMatrices(described, tensor(op.weight))
      buffers[op.out] = buffers[op.in]!.map((row) => headMatmul(row, described, matrices, multiply))
    } else if (op.op === 'scale') {
      buffers[op.buffer] = buffers[op.buffer]!.map((row) => row.map((value) => value * op.by))
    } else {
      logits = buffers[op.in]!.map((x) => multiply(tensor(op.weight), x, plan.vocab))
    }
  }
  return logits
}

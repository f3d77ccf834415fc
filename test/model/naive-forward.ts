/** A plan run in float64 by the plainest loops, as an oracle for whole models. Small ones only. */
import type { Plan } from '../../lib/model/plan.js'
import { naiveAttention } from './naive-attention.js'
import { naiveActivation } from './naive-experts.js'
import { gated, headMatmul, headMatrices } from './naive-latent.js'
import { dot, multiply } from './naive-math.js'
import { naiveRope } from './naive-rope.js'
import { type Choice, type Enabled, naiveRoute } from './naive-route.js'

/** Floats of a file's tensor. */
export type ReadTensor = (name: string) => Float32Array

type Rows = number[][]

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
      choices = buffers[op.in]!.map((x) => naiveRoute(x, tensor, op, enabled))
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

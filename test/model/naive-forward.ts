/** A plan run in float64 by the plainest loops, as an oracle for whole models. Small ones only. */
import type { Plan, PlanOp } from '../../lib/model/plan.js'
import { dot, multiply, softmax } from './naive-math.js'
import { type Choice, type Enabled, naiveRoute } from './naive-route.js'

/** Floats of a file's tensor. */
export type ReadTensor = (name: string) => Float32Array

type Rows = number[][]

function rope(row: number[], position: number, op: Extract<PlanOp, { op: 'rope' }>): void {
  const half = op.rotaryDim / 2
  for (let head = 0; head < op.heads; head++) {
    for (let i = 0; i < half; i++) {
      const angle = position * op.base ** ((-2 * i) / op.rotaryDim)
      const first = head * op.headDim + (op.pairs === 'neox' ? i : 2 * i)
      const second = first + (op.pairs === 'neox' ? half : 1)
      const [a, b] = [row[first]!, row[second]!]
      row[first] = a * Math.cos(angle) - b * Math.sin(angle)
      row[second] = a * Math.sin(angle) + b * Math.cos(angle)
    }
  }
}

function attend(q: Rows, k: Rows, v: Rows, op: Extract<PlanOp, { op: 'attention' }>): Rows {
  return q.map((row, t) => {
    const out: number[] = []
    for (let head = 0; head < op.heads; head++) {
      const kvHead = Math.floor(head / (op.heads / op.kvHeads))
      const query = row.slice(head * op.headDim, (head + 1) * op.headDim)
      const scores = k.slice(0, t + 1).map((key) => op.scale * dot(query, key, kvHead * op.headDim))
      const weights = softmax(scores)
      for (let d = 0; d < op.valueDim; d++) {
        out.push(weights.reduce((sum, w, s) => sum + w * v[s]![kvHead * op.valueDim + d]!, 0))
      }
    }
    return out
  })
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
          const part = row.slice(i - (i % n), i - (i % n) + n)
          return (value / Math.sqrt(dot(part, part) / n + op.epsilon)) * weight[i % n]!
        })
      )
    } else if (op.op === 'matmul') {
      const input = buffers[op.in]!
      for (const { weight, out } of op.parts) {
        const rows = input.map((x) => multiply(tensor(weight), x, plan.buffers[out]!))
        const before = buffers[out]
        buffers[out] = op.add && before ? rows.map((row, t) => row.map((value, i) => value + before[t]![i]!)) : rows
      }
    } else if (op.op === 'rope') {
      for (const [position, row] of buffers[op.buffer]!.entries()) rope(row, position, op)
    } else if (op.op === 'attention') {
      buffers[op.out] = attend(buffers[op.q]!, buffers[op.k]!, buffers[op.v]!, op)
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
          const inner = gate.map((g, i) => (g / (1 + Math.exp(-g))) * up[i]!)
          const down = multiply(tensor(op.down), inner, out[t]!.length, expert * hidden * out[t]!.length)
          out[t] = out[t]!.map((value, i) => value + weight * down[i]!)
        }
      }
    } else {
      logits = buffers[op.in]!.map((x) => multiply(tensor(op.weight), x, plan.vocab))
    }
  }
  return logits
}

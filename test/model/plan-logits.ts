/** Logits of a file under a plan, through the addon's own interface: instruction set, chunks and budgets are the caller's. */
import { planExperts } from '../../lib/expert-budget.js'
import type { Plan } from '../../lib/model/plan.js'
import { type KvType, native } from '../../lib/native.js'

export interface LogitsOptions {
  isa?: 'auto' | 'scalar'
  threads?: number
  /** Tokens of a step. Default: all. */
  chunk?: number
  kvType?: KvType
  /** Experts that stay in memory; the others are read when they are needed. Default: all stay. */
  slots?: number
}

/** Logits of all tokens, [tokens][vocab]. */
export async function planLogits(
  path: string,
  plan: Plan,
  tokens: readonly number[],
  { isa = 'auto', threads = 2, chunk = tokens.length, kvType = 'f32', slots }: LogitsOptions = {}
): Promise<Float32Array> {
  const addon = native()
  const cancel = addon.createCancel()
  const file = await addon.openGguf(path)
  const backend = addon.createBackend({ threads, isa })
  try {
    const request = { kvType, contextLength: 64, maxBatchTokens: 1, threads, memory: 2 ** 40, stepBytes: () => 0 }
    const experts = slots !== undefined && {
      budgetBytes: slots * planExperts(file.tensors, plan, request, 0).experts.slot,
      kvReserveBytes: 2 ** 40,
      policy: 'adaptive' as const,
      prefetch: 'off' as const,
      seed: 1,
      ioThreads: 1
    }
    const options = { maxBatchTokens: tokens.length, ...(experts && { experts }) }
    const model = await backend.loadModel(file, plan, options, cancel)
    const sequence = model.createSequence({ kvType, maxTokens: tokens.length })
    const out = new Float32Array(tokens.length * plan.vocab)
    for (let at = 0; at < tokens.length; at += chunk) {
      const part = Int32Array.from(tokens.slice(at, at + chunk))
      const logitsOut = out.subarray(at * plan.vocab)
      const { items } = await model.step([{ sequence, tokens: part, logits: 'all', logitsOut }], cancel)
      if (items[0]?.error) throw items[0].error
    }
    sequence.dispose()
    await model.dispose()
    return out
  } finally {
    backend.dispose()
    file.close()
  }
}

export const sameBits = (a: Float32Array, b: Float32Array): boolean =>
  Buffer.from(a.buffer).equals(Buffer.from(b.buffer))

// Opens a model through the package's low-level surface: exact control over chunks, batches, threads and instruction set.

import { readModel } from '../dist/esm/model/index.js'
import { native } from '../dist/esm/native.js'

/** Loads a file. Everything in the result lives until its `dispose`. */
export async function openModel(path, { isa = 'auto', threads = 1, maxBatchTokens = 512 } = {}) {
  const addon = native()
  const file = await addon.openGguf(path)
  try {
    const description = readModel(file)
    const backend = addon.createBackend({ threads, isa })
    const cancel = addon.createCancel()
    const model = await backend.loadModel(file, description.plan, { maxBatchTokens }, cancel)
    const dispose = async () => {
      await model.dispose()
      backend.dispose()
    }
    return {
      addon,
      backend,
      model,
      description,
      plan: description.plan,
      metadata: file.metadata,
      tensors: file.tensors,
      cancel,
      dispose
    }
  } finally {
    file.close()
  }
}

export const greedy = Object.freeze({
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  seed: 0,
  topLogprobs: -1
})

/** Experts that each token uses, from the plan's route operation. */
export function expertsPerToken(plan) {
  return plan.ops.find((op) => op.op === 'route')?.k ?? 0
}

/** Bytes of weights that one decoded token reads: the chosen experts' share, one row of the embedding, everything else. */
export function weightBytesPerToken(plan, tensors) {
  const used = expertsPerToken(plan)
  const sizes = new Map(tensors.map((tensor) => [tensor.name, tensor.bytes]))
  return plan.tensors.reduce((total, { name, source, role, shape }) => {
    const bytes = sizes.get(source ?? name) ?? 0
    if (role === 'embedding') return total + bytes / shape[1]
    return total + (role === 'experts' ? (bytes * used) / shape[2] : bytes)
  }, 0)
}

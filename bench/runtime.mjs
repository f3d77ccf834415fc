// Opens a model through the package's low-level surface: exact control over chunks, batches, threads and instruction set.

import { openModel as openFile } from '../dist/esm/engine/open-model.js'
import { planExperts } from '../dist/esm/expert-budget.js'
import { native } from '../dist/esm/native.js'

/** Bytes that a store has for `percent` of a model's experts: at least what it needs to work with so many threads. */
function budgetFor(opened, percent, threads) {
  const request = {
    kvType: 'f16',
    contextLength: 64,
    maxBatchTokens: 1,
    threads,
    memory: Number.MAX_SAFE_INTEGER,
    stepBytes: () => 0
  }
  const { slot, count } = planExperts(opened.tensors, opened.description.plan, request, 0).experts
  return { slots: Math.max(threads + 1, Math.round((count * percent) / 100)), slot, count }
}

/** More than any sequence here takes; only those that ask for it take part. */
export const prefixCacheBytes = 2 ** 30

/** ExpertOptions.placement that pins the last quarter of each layer's experts. */
const lastQuarter = ({ expertLayers, experts }) =>
  Uint8Array.from({ length: expertLayers * experts }, (_, i) =>
    Number(i % experts >= experts - Math.floor(experts / 4))
  )

/**
 * Loads a file, or a checkpoint's folder. `percent`: of its experts, that a store keeps; without it all stay in memory. `gpuPercent`: of its
 * experts, that an addon for a device keeps there. `hot`: pins the last quarter of each layer's experts.
 * Everything in the result lives until its `dispose`.
 */
export async function openModel(
  path,
  {
    isa = 'auto',
    threads = 1,
    maxBatchTokens = 512,
    percent,
    gpuPercent,
    hot = false,
    policy = 'adaptive',
    prefetch = 'auto',
    addon = native()
  } = {}
) {
  const cancel = addon.createCancel()
  const opened = await openFile(addon, path, cancel)
  const { file, description, blobs } = opened
  try {
    const backend = addon.createBackend({ threads, isa })
    const budget = percent === undefined ? undefined : budgetFor(opened, percent, threads)
    const experts = budget && {
      budgetBytes: budget.slots * budget.slot,
      kvReserveBytes: 2 ** 40,
      policy,
      prefetch,
      seed: 1,
      ioThreads: 4,
      ...(gpuPercent && { gpuBudgetBytes: Math.max(2, Math.round((budget.count * gpuPercent) / 100)) * budget.slot }),
      ...(hot && { placement: lastQuarter(description.sizes) }),
      ...(blobs && { blobs })
    }
    const options = { maxBatchTokens, prefixCacheBytes, ...(experts && { experts }) }
    const model = await backend.loadModel(file, description.plan, options, cancel)
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
      tensors: opened.tensors,
      blobs,
      budget,
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

/** Operations of the products of one token of a prompt (a product and its sum are two): the chosen experts' share, and no logits. */
export function operationsPerToken(plan) {
  const used = expertsPerToken(plan)
  const last = plan.ops.find(({ op }) => op === 'logits')?.weight
  return plan.tensors.reduce((total, { name, role, shape }) => {
    if (name === last || (role !== 'matrix' && role !== 'experts')) return total
    return total + 2 * shape[0] * shape[1] * (role === 'experts' ? used : 1)
  }, 0)
}

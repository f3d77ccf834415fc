/** What a file's model is: architecture, sizes, bytes per part, and the plan that runs it. */
import type { NativeGguf } from '../native.js'
import { findArchitecture } from './architectures.js'
import { checkGroupRouters } from './hser.js'
import type { Plan } from './plan.js'
import type { Sizes } from './sizes.js'
import { checkTensors } from './tensors.js'

/** What a group of tensors is for; `dense`: a feed-forward that every token goes through. */
export type ModelPart = (typeof PARTS)[number]
const PARTS = ['embedding', 'attention', 'router', 'experts', 'dense', 'norms', 'output'] as const

export interface PartSize {
  tensors: number
  parameters: number
  bytes: number
  /** Weight types in this part, most bytes first. */
  types: string[]
}

/** Facts about a model, ready to print or to send: plain data. */
export interface ModelDescriptor {
  /** `general.name` of the file. */
  name?: string
  architecture: string
  layers: number
  /** Layers with experts: what `layer` counts wherever experts are named. Those before them are dense. */
  expertLayers: number
  embedding: number
  heads: number
  kvHeads: number
  headDim: number
  experts: number
  expertsUsed: number
  /** Width inside one expert. */
  expertFeedForward: number
  /** Bytes of one expert of one layer in the file: its gate, up and down matrices. */
  expertBytes: number
  vocab: number
  contextLength: number
  parameters: number
  /** Parameters without those of the experts that a token does not use. */
  activeParameters: number
  /** Type of the experts' weights. */
  weightType: string
  /** Whether `messages` can be given instead of a prompt. */
  hasChatTemplate: boolean
  fileBytes: number
  parts: Record<ModelPart, PartSize>
}

export interface ModelDescription {
  architecture: string
  plan: Plan
  descriptor: ModelDescriptor
  contextLength: number
  sizes: Sizes
}

const PART_OF: readonly [RegExp, ModelPart][] = [
  [/_norm\.weight$/, 'norms'],
  [/^token_embd\./, 'embedding'],
  [/^output\./, 'output'],
  [/\.(ffn_(gate_inp|(tier|group|expert)_router)|exp_probs_b)\./, 'router'],
  [/\.ffn_\w+_exps\./, 'experts'],
  [/\.ffn_/, 'dense'],
  [/\.attn_/, 'attention']
]

function partOf(name: string): ModelPart | undefined {
  return PART_OF.find(([pattern]) => pattern.test(name))?.[1]
}

function measureParts(file: NativeGguf): Record<ModelPart, PartSize> {
  const parts = {} as Record<ModelPart, PartSize>
  const bytesOfType = new Map<ModelPart, Map<string, number>>()
  for (const part of PARTS) {
    parts[part] = { tensors: 0, parameters: 0, bytes: 0, types: [] }
    bytesOfType.set(part, new Map())
  }
  for (const { name, shape, bytes, type } of file.tensors) {
    const part = partOf(name)
    if (!part) continue
    parts[part].tensors++
    parts[part].parameters += shape.reduce((a, b) => a * b, 1)
    parts[part].bytes += bytes
    const types = bytesOfType.get(part)!
    types.set(type, (types.get(type) ?? 0) + bytes)
  }
  for (const [part, types] of bytesOfType) {
    parts[part].types = [...types].sort((a, b) => b[1] - a[1]).map(([type]) => type)
  }
  return parts
}

/** Bytes of the experts' matrices: their biases are no part of an expert. */
const matricesOf = (file: NativeGguf): number =>
  file.tensors.reduce((sum, { name, bytes }) => (/\.ffn_\w+_exps\.weight$/.test(name) ? sum + bytes : sum), 0)

function describe(file: NativeGguf, architecture: string, s: Sizes): ModelDescriptor {
  const parts = measureParts(file)
  const parameters = Object.values(parts).reduce((sum, part) => sum + part.parameters, 0)
  const idle = Math.round(parts.experts.parameters * (1 - s.expertsUsed / s.experts))
  const name = file.metadata['general.name']
  return {
    ...(typeof name === 'string' ? { name } : {}),
    architecture,
    layers: s.layers,
    expertLayers: s.expertLayers,
    embedding: s.embedding,
    heads: s.heads,
    kvHeads: s.kvHeads,
    headDim: s.headDim,
    experts: s.experts,
    expertsUsed: s.expertsUsed,
    expertFeedForward: s.feedForward,
    expertBytes: matricesOf(file) / (s.expertLayers * s.experts),
    vocab: s.vocab,
    contextLength: s.contextLength,
    parameters,
    activeParameters: parameters - idle,
    weightType: parts.experts.types[0] ?? 'F32',
    hasChatTemplate: typeof file.metadata['tokenizer.chat_template'] === 'string',
    fileBytes: file.fileBytes,
    parts
  }
}

/**
 * Reads an open file's model and checks it against the plan of its architecture; no weight is read.
 * METADATA_INVALID {key, found, allowed}, ARCHITECTURE_UNSUPPORTED {architecture, supported}, TENSOR_MISSING,
 * TENSOR_SHAPE_MISMATCH {tensor, expected, actual}, TENSOR_TYPE_UNSUPPORTED {tensor, type, supported}, CONFIG_GROUP_COUNT_MISMATCH.
 */
export function readModel(file: NativeGguf): ModelDescription {
  const { architecture, sizes, metadata } = findArchitecture(file.metadata)
  if (file.tensors.some(({ name }) => name === 'rope_freqs.weight')) sizes.rope.divided = true
  const tied = !file.tensors.some(({ name }) => name === 'output.weight')
  if (sizes.gating) {
    sizes.gating.selectionBias = file.tensors.some(({ name }) => /\.exp_probs_b\.bias$/.test(name))
    if (sizes.gating.selectionBias && sizes.gating.form !== 'sigmoid')
      metadata.refuse('.expert_gating_func', '2 (sigmoid): the file has biases of the selection, exp_probs_b')
  }
  if (sizes.hser) checkGroupRouters(sizes.hser, file.tensors)
  const plan = architecture.plan(sizes, tied)
  checkTensors(plan, file.tensors, architecture.ggufName)
  return {
    architecture: architecture.ggufName,
    plan,
    descriptor: describe(file, architecture.ggufName, sizes),
    contextLength: sizes.contextLength,
    sizes
  }
}

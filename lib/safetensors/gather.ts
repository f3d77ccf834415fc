/** From the tensors of a folder to those of the model: names of GGUF, experts stacked, each with the places that its bytes come from. */
import { createError } from '../errors/index.js'
import type { Metadata } from '../model/metadata.js'
import type { FolderArchitecture } from './architectures.js'
import { invalid, shown } from './read-json.js'
import type { PlacedTensor } from './shards.js'
import type { TensorRule } from './tensor-rules.js'

/** Types that can be read, and bytes of a weight. */
const weightBytes = { F32: 4, F16: 2, BF16: 2 } as const
export type StoredType = keyof typeof weightBytes
const storedTypes = Object.keys(weightBytes)

/** A tensor of the model. */
export interface GatheredTensor {
  name: string
  stored: StoredType
  /** Innermost first. */
  shape: number[]
  /** 0, or half the rows of a head whose rows are to be paired. */
  halfHead: number
  /** Equal shares of the rows, in order. */
  parts: { file: number; offset: number }[]
}

/** Tensors that transformers keeps and nobody computes with. */
const ignored = /\.rotary_emb\.inv_freq$/
const number = /(?<=\.(layers|experts)\.)(0|[1-9]\d{0,5})(?=\.)/g

interface Source {
  tensor: PlacedTensor
  expert: number | undefined
}

interface Target {
  name: string
  rule: TensorRule
  order: number
  sources: Source[]
}

/** Numbers taken out of a name: `model.layers.{layer}.mlp.experts.{expert}.up_proj.weight`. */
function templateOf(name: string): { template: string; layer: number; expert: number | undefined } {
  let layer = -1
  let expert: number | undefined
  const template = name.replace(number, (digits, kind: string) => {
    if (kind === 'layers') layer = Number(digits)
    else expert = Number(digits)
    return kind === 'layers' ? '{layer}' : '{expert}'
  })
  return { template, layer, expert }
}

const mismatch = (tensor: string, expected: string, actual: readonly number[]) =>
  createError('TENSOR_SHAPE_MISMATCH', `tensor ${tensor} has shape [${actual.join(', ')}], needed is ${expected}`, {
    tensor,
    expected,
    actual: [...actual]
  })

function storedType({ name, dtype }: PlacedTensor): StoredType {
  if (storedTypes.includes(dtype)) return dtype as StoredType
  throw createError(
    'TENSOR_TYPE_UNSUPPORTED',
    `tensor ${shown(name)} has the type ${dtype}; supported in safetensors files: ${storedTypes.join(', ')}`,
    { tensor: shown(name), type: dtype, supported: storedTypes }
  )
}

/** Tensors that are stacked: all experts from 0 on, alike. */
function checkExperts(target: Target, path: string): void {
  const { sources, name } = target
  const first = sources[0]!.tensor
  for (const [index, { tensor, expert }] of sources.entries()) {
    if (expert === undefined) throw invalid(path, `${name} is there stacked and expert by expert`, { tensor: name })
    if (expert !== index) {
      const missing = tensor.name.replace(`.experts.${expert}.`, `.experts.${index}.`)
      throw createError('TENSOR_MISSING', `tensor ${shown(missing)} is not in the folder`, { tensor: shown(missing) })
    }
    if (tensor.shape.length !== first.shape.length || tensor.shape.some((size, i) => size !== first.shape[i])) {
      throw mismatch(shown(tensor.name), `[${first.shape.join(', ')}], as the other experts have it`, tensor.shape)
    }
    if (tensor.dtype !== first.dtype) {
      throw invalid(path, `${shown(tensor.name)} is ${tensor.dtype}, and the experts before it are ${first.dtype}`, {
        tensor: shown(tensor.name)
      })
    }
  }
}

/** One half of the rows of each matrix: shape [..., rows, columns]. */
function halve({ name, shape, file, offset }: PlacedTensor, half: 0 | 1, each: number) {
  const [columns, rows, ...outer] = [...shape].reverse()
  if (columns === undefined || rows === undefined || rows % 2 !== 0) {
    throw mismatch(shown(name), 'matrices with an even number of rows', shape)
  }
  const matrices = outer.reduce((product, size) => product * size, 1)
  const bytes = (rows / 2) * columns * each
  const parts = Array.from({ length: matrices }, (_, i) => ({ file, offset: offset + (2 * i + half) * bytes }))
  return { shape: [columns, rows / 2, ...outer], parts }
}

function halfHead(rule: TensorRule, { name, shape }: PlacedTensor, config: Metadata): number {
  if (!rule.heads) return 0
  const heads = config.integer(`.${rule.heads}`, { default: config.integer('.num_attention_heads') })
  const half = (shape[0] ?? 0) / heads / 2
  if (!Number.isInteger(half) || half < 1) throw mismatch(shown(name), `rows of ${heads} even heads`, shape)
  return half
}

/** A matrix of one row is a vector, as converters write it. */
const squeezed = (shape: number[]): number[] => (shape.length === 2 && shape[1] === 1 ? shape.slice(0, 1) : shape)

function gatherOne(target: Target, config: Metadata, path: string): GatheredTensor {
  const { name, rule, sources } = target
  sources.sort((a, b) => (a.expert ?? -1) - (b.expert ?? -1))
  const [{ tensor, expert }] = sources as [Source]
  if (sources.length > 1 || expert !== undefined) checkExperts(target, path)
  const stored = storedType(tensor)
  const whole =
    rule.half === undefined
      ? { shape: [...tensor.shape].reverse(), parts: sources.map(({ tensor: { file, offset } }) => ({ file, offset })) }
      : halve(tensor, rule.half, weightBytes[stored])
  const shape = expert === undefined ? squeezed(whole.shape) : [...whole.shape, sources.length]
  if (shape.length < 1 || shape.length > 4) throw mismatch(shown(tensor.name), '1 to 4 dimensions', tensor.shape)
  return { name, stored, shape, halfHead: halfHead(rule, tensor, config), parts: whole.parts }
}

/**
 * The model's tensors, in an order that the files' does not change. `tied`: an output matrix that is there all the same is left out.
 * ARCHITECTURE_UNSUPPORTED {tensors} for weights that would be left out, TENSOR_MISSING, TENSOR_SHAPE_MISMATCH, TENSOR_TYPE_UNSUPPORTED,
 * MODEL_FILE_INVALID for what contradicts itself.
 */
export function gatherTensors(
  architecture: FolderArchitecture,
  config: Metadata,
  tensors: readonly PlacedTensor[],
  tied: boolean,
  path: string
): GatheredTensor[] {
  const rules = new Map<string, { rule: TensorRule; order: number }[]>()
  for (const [order, rule] of architecture.tensors.entries()) {
    rules.set(rule.from, [...(rules.get(rule.from) ?? []), { rule, order }])
  }
  const targets = new Map<string, Target>()
  const extra: string[] = []
  const layers = config.integer('.num_hidden_layers')
  const guesses = architecture.guesses ? config.integer('.num_nextn_predict_layers', { min: 0, default: 0 }) : 0
  for (const tensor of tensors) {
    const { template, layer, expert } = templateOf(tensor.name)
    if (layer >= layers && layer < layers + guesses) continue
    const found = rules.get(template)
    if (!found && !ignored.test(tensor.name)) extra.push(shown(tensor.name))
    for (const { rule, order } of found ?? []) {
      if (tied && rule.to === 'output.weight') continue
      const name = rule.to.replace('{layer}', String(layer))
      const target = targets.get(name) ?? {
        name,
        rule,
        order: layer * architecture.tensors.length + order,
        sources: []
      }
      target.sources.push({ tensor, expert })
      targets.set(name, target)
    }
  }
  if (extra.length > 0) {
    const some = extra.slice(0, 3).join(', ') + (extra.length > 3 ? `, and ${extra.length - 3} more` : '')
    throw createError(
      'ARCHITECTURE_UNSUPPORTED',
      `the folder has tensors that architecture ${architecture.modelType} does not use here: ${some}; running without them would be wrong`,
      { architecture: architecture.modelType, tensors: extra.slice(0, 20), count: extra.length }
    )
  }
  return [...targets.values()].sort((a, b) => a.order - b.order).map((target) => gatherOne(target, config, path))
}

/** From the tensors of a folder to those of the model: names of GGUF, experts stacked, each with the places that its bytes come from. */
import { createError } from '../errors/index.js'
import type { Metadata } from '../model/metadata.js'
import type { FolderArchitecture } from './architectures.js'
import { checkType, type Layout, layoutOf, mismatch } from './layout.js'
import { invalid, shown } from './read-json.js'
import type { PlacedTensor } from './shards.js'
import type { TensorRule } from './tensor-rules.js'

/** A tensor of the model. */
export interface GatheredTensor extends Layout {
  name: string
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
  /** Of MXFP4. */
  scales?: PlacedTensor
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

const missing = (tensor: string) =>
  createError('TENSOR_MISSING', `tensor ${shown(tensor)} is not in the folder`, { tensor: shown(tensor) })

/** Tensors that are stacked: all experts from 0 on, alike. */
function checkExperts(target: Target, path: string): void {
  const { sources, name } = target
  const first = sources[0]!.tensor
  for (const [index, { tensor, expert }] of sources.entries()) {
    if (expert === undefined) throw invalid(path, `${name} is there in two forms`, { tensor: name })
    if (expert !== index) {
      throw missing(tensor.name.replace(`.experts.${expert}.`, `.experts.${index}.`))
    }
    if (tensor.shape.length !== first.shape.length || tensor.shape.some((size, i) => size !== first.shape[i])) {
      throw mismatch(tensor.name, `[${first.shape.join(', ')}], as the other experts have it`, tensor.shape)
    }
    if (tensor.dtype !== first.dtype) {
      throw invalid(path, `${shown(tensor.name)} is ${tensor.dtype}, and the experts before it are ${first.dtype}`, {
        tensor: shown(tensor.name)
      })
    }
  }
}

/** A matrix of one row is a vector, as converters write it. */
const squeezed = (shape: number[]): number[] => (shape.length === 2 && shape[1] === 1 ? shape.slice(0, 1) : shape)

function gatherOne(target: Target, config: Metadata, path: string): GatheredTensor {
  const { name, rule, sources, scales } = target
  sources.sort((a, b) => (a.expert ?? -1) - (b.expert ?? -1))
  const [first] = sources
  if (!first) throw missing(scales!.name.replace(/_scales$/, '_blocks'))
  const { tensor, expert } = first
  if (rule.mxfp4 && !scales) throw missing(tensor.name.replace(/_blocks$/, '_scales'))
  if (sources.length > 1 || expert !== undefined) checkExperts(target, path)
  if (tensor.bytes === 0) throw invalid(path, `tensor ${shown(tensor.name)} is empty`, { tensor: shown(tensor.name) })
  const layout = layoutOf(rule, tensor, scales, config)
  const { length } = layout.shape
  if (length < 1 || length > 4) throw mismatch(tensor.name, '1 to 4 dimensions', tensor.shape)
  if (expert === undefined) return { name, ...layout, shape: squeezed(layout.shape) }
  const parts = sources.map(({ tensor: { file, offset } }) => ({ file, offset }))
  return { name, ...layout, shape: [...layout.shape, sources.length], parts }
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
      checkType(rule, tensor)
      if (tied && rule.to === 'output.weight') continue
      const name = rule.to.replace('{layer}', String(layer))
      const target: Target = targets.get(name) ?? {
        name,
        rule,
        order: layer * architecture.tensors.length + order,
        sources: []
      }
      if (rule.mxfp4 === 'scales') target.scales = tensor
      else target.sources.push({ tensor, expert })
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

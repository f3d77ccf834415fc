/** A plan's tensors against a file's: every one there, with the plan's shape and a type that its role can have. */
import { createError } from '../errors/index.js'
import { dtypes } from '../kernels/layout.js'
import type { DType, GgufTensorInfo } from '../native.js'
import type { Plan, PlanTensor, TensorRole } from './plan.js'

/** The types that the kernels have. */
export const SUPPORTED_TYPES: readonly DType[] = dtypes
const FLOAT_TYPES: readonly DType[] = ['F32', 'F16', 'BF16']

/** Vectors and routers are kept exact, so a file that has them quantised is not one that any converter writes. */
const TYPES_OF_ROLE: Record<TensorRole, readonly DType[]> = {
  embedding: SUPPORTED_TYPES,
  matrix: SUPPORTED_TYPES,
  experts: SUPPORTED_TYPES,
  router: FLOAT_TYPES,
  vector: FLOAT_TYPES,
  routerBias: FLOAT_TYPES,
  selectionBias: FLOAT_TYPES,
  heads: SUPPORTED_TYPES
}

/** The shape that a plan's tensor has in the file. */
function fileShape({ shape, cut }: PlanTensor): number[] {
  return cut ? [shape[cut.transposed ? 1 : 0]!, shape[2]! * cut.height] : shape
}

/** Tensors that other programs leave in files and that no supported architecture computes with. */
const IGNORED = /(^|\.)attn_rot_embd$|\.rotary_emb\.inv_freq$/

export interface FileTensors {
  has(name: string): boolean
  get(name: string): GgufTensorInfo | undefined
}

/** Same dimensions, where trailing ones count as absent (a matrix of one expert may be stored with two). */
function sameShape(a: readonly number[], b: readonly number[]): boolean {
  const n = Math.max(a.length, b.length)
  for (let i = 0; i < n; i++) if ((a[i] ?? 1) !== (b[i] ?? 1)) return false
  return true
}

function checkTensor(tensor: PlanTensor, found: GgufTensorInfo | undefined, architecture: string): void {
  const name = tensor.source ?? tensor.name
  if (!found) {
    throw createError('TENSOR_MISSING', `tensor ${name} is not in the file; architecture ${architecture} needs it`, {
      tensor: name,
      architecture,
      expected: fileShape(tensor)
    })
  }
  const shape = fileShape(tensor)
  if (!sameShape(found.shape, shape)) {
    const [expected, actual] = [shape, found.shape].map((s) => `[${s.join(', ')}]`)
    throw createError('TENSOR_SHAPE_MISMATCH', `tensor ${name} has shape ${actual}, the metadata ask for ${expected}`, {
      tensor: name,
      expected: shape,
      actual: found.shape
    })
  }
  const supported = TYPES_OF_ROLE[tensor.role]
  if (!supported.includes(found.type as DType)) {
    throw createError(
      'TENSOR_TYPE_UNSUPPORTED',
      `tensor ${name} has type ${found.type}; supported for a ${tensor.role}: ${supported.join(', ')}`,
      { tensor: name, type: found.type, role: tensor.role, supported: [...supported] }
    )
  }
}

/**
 * Checks all tensors of the plan. TENSOR_MISSING, TENSOR_SHAPE_MISMATCH {tensor, expected, actual}, TENSOR_TYPE_UNSUPPORTED
 * {tensor, type, supported}; ARCHITECTURE_UNSUPPORTED {tensors} for weights that the plan would leave out, such as biases.
 */
export function checkTensors(plan: Plan, tensors: readonly GgufTensorInfo[], architecture: string): void {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  for (const tensor of plan.tensors) checkTensor(tensor, byName.get(tensor.source ?? tensor.name), architecture)

  const used = new Set(plan.tensors.map((tensor) => tensor.source ?? tensor.name))
  const extra = tensors
    .map(({ name }) => name)
    .filter((name) => !used.has(name) && !IGNORED.test(name.replace(/\.(weight|bias)$/, '')))
  if (extra.length > 0) {
    const shown = extra.slice(0, 3).join(', ') + (extra.length > 3 ? `, and ${extra.length - 3} more` : '')
    throw createError(
      'ARCHITECTURE_UNSUPPORTED',
      `the file has tensors that architecture ${architecture} does not use here: ${shown}; running without them would be wrong`,
      { architecture, tensors: extra.slice(0, 20), count: extra.length }
    )
  }
}

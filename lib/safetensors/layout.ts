/** Where the rows of a model's tensor lie in a folder's files, which keep some of them turned, side by side, or with their scales apart. */
import { createError } from '../errors/index.js'
import type { Metadata } from '../model/metadata.js'
import { shown } from './read-json.js'
import type { PlacedTensor } from './shards.js'
import type { TensorRule } from './tensor-rules.js'

/** Types that can be read, and bytes of a weight; MXFP4 in two tensors of bytes, its codes and its scales. */
const weightBytes = { F32: 4, F16: 2, BF16: 2 } as const
export type StoredType = keyof typeof weightBytes | 'MXFP4'
const floatTypes = Object.keys(weightBytes)
/** Weights of a block of MXFP4, and bytes of their codes. */
const [block, blockBytes] = [32, 16]
/** Of a stacked tensor; no model has more experts. */
const mostMatrices = 4096

export interface Place {
  file: number
  offset: number
}

export interface Layout {
  stored: StoredType
  /** Innermost first. */
  shape: number[]
  /** 0, or half the rows of a head whose rows are to be paired. */
  halfHead: number
  /** Weights from one row to the next one, 0: they follow one another; from one weight of a row to the next one. */
  rowStep: number
  columnStep: number
  /** Equal shares of the rows, in order. */
  parts: Place[]
  /** Of MXFP4: the scales of each part. */
  scales: Place[]
}

export const mismatch = (tensor: string, expected: string, actual: readonly number[]) =>
  createError(
    'TENSOR_SHAPE_MISMATCH',
    `tensor ${shown(tensor)} has shape [${actual.join(', ')}], needed is ${expected}`,
    {
      tensor: shown(tensor),
      expected,
      actual: [...actual]
    }
  )

/** TENSOR_TYPE_UNSUPPORTED {tensor, type, supported} for a type that is not read. */
export function checkType({ mxfp4 }: TensorRule, { name, dtype }: PlacedTensor): void {
  const supported = mxfp4 ? ['U8'] : floatTypes
  if (supported.includes(dtype)) return
  throw createError(
    'TENSOR_TYPE_UNSUPPORTED',
    `tensor ${shown(name)} has the type ${dtype}; supported ${mxfp4 ? 'for MXFP4' : 'in safetensors files'}: ${supported.join(', ')}`,
    { tensor: shown(name), type: dtype, supported }
  )
}

/** Of a tensor of shape [..., rows, columns]: its matrices. */
function matricesOf({ name, shape }: PlacedTensor) {
  const [columns, rows, ...outer] = [...shape].reverse()
  if (columns === undefined || rows === undefined) throw mismatch(name, 'a matrix', shape)
  const count = outer.reduce((product, size) => product * size, 1)
  if (count > mostMatrices) throw mismatch(name, `at most ${mostMatrices} matrices`, shape)
  return { columns, rows, outer, count }
}

const even = (size: number, { name, shape }: PlacedTensor): number => {
  if (size % 2 !== 0) throw mismatch(name, 'an even number of rows', shape)
  return size / 2
}

const places = ({ file, offset }: PlacedTensor, count: number, step: number, first = 0): Place[] =>
  Array.from({ length: count }, (_, i) => ({ file, offset: offset + i * step + first }))

type Rows = Pick<Layout, 'shape' | 'rowStep' | 'columnStep' | 'parts'>

/** Shape [..., rows of both halves, columns]. */
function halved(tensor: PlacedTensor, half: 0 | 1, each: number): Rows {
  const { columns, rows, outer, count } = matricesOf(tensor)
  const own = even(rows, tensor)
  const bytes = own * columns * each
  return {
    shape: [columns, own, ...outer],
    rowStep: 0,
    columnStep: 1,
    parts: places(tensor, count, 2 * bytes, half * bytes)
  }
}

/** Shape [..., columns, rows], where rows of two matrices may take turns. */
function turned(tensor: PlacedTensor, turn: 0 | 1 | undefined, each: number): Rows {
  const { columns: stored, rows: columns, outer, count } = matricesOf(tensor)
  return {
    shape: [columns, turn === undefined ? stored : even(stored, tensor), ...outer],
    rowStep: turn === undefined ? 1 : 2,
    columnStep: stored,
    parts: places(tensor, count, columns * stored * each, (turn ?? 0) * each)
  }
}

/** Shape [vectors, values], where values of two vectors take turns. */
function alternate(tensor: PlacedTensor, turn: 0 | 1, each: number): Rows {
  const { columns: stored, outer, rows } = matricesOf(tensor)
  if (outer.length > 0) throw mismatch(tensor.name, 'two dimensions', tensor.shape)
  const shape = [even(stored, tensor), rows]
  return { shape, rowStep: stored, columnStep: 2, parts: places(tensor, 1, 0, turn * each) }
}

/** Codes [matrices, rows, blocks, 16] and scales [matrices, rows, blocks], where rows of two matrices may take turns. */
function scaled(tensor: PlacedTensor, scales: PlacedTensor, turn: 0 | 1 | undefined): Layout {
  const { name, shape } = scales
  const [matrices = 0, rows = 0, blocks = 0, bytes] = tensor.shape
  if (tensor.shape.length !== 4 || bytes !== blockBytes || matrices > mostMatrices) {
    throw mismatch(tensor.name, `[matrices, rows, blocks, ${blockBytes}]`, tensor.shape)
  }
  if (shape.length !== 3 || shape.some((size, i) => size !== tensor.shape[i])) {
    throw mismatch(name, `[${tensor.shape.slice(0, 3).join(', ')}], as its codes`, shape)
  }
  const columns = blocks * block
  const each = (one: PlacedTensor, row: number) => places(one, matrices, rows * row, (turn ?? 0) * row)
  return {
    stored: 'MXFP4',
    shape: [columns, turn === undefined ? rows : even(rows, tensor), matrices],
    halfHead: 0,
    rowStep: turn === undefined ? 0 : 2 * columns,
    columnStep: 1,
    parts: each(tensor, blocks * blockBytes),
    scales: each(scales, blocks)
  }
}

function halfHeadOf({ heads: key }: TensorRule, { name, shape }: PlacedTensor, config: Metadata): number {
  if (!key) return 0
  const heads = config.integer(`.${key}`, { default: config.integer('.num_attention_heads') })
  const half = (shape[0] ?? 0) / heads / 2
  if (!Number.isInteger(half) || half < 1) throw mismatch(name, `rows of ${heads} even heads`, shape)
  return half
}

/** Of one tensor that checkType has let in and that is not empty. `scales`: of MXFP4. TENSOR_SHAPE_MISMATCH. */
export function layoutOf(
  rule: TensorRule,
  tensor: PlacedTensor,
  scales: PlacedTensor | undefined,
  config: Metadata
): Layout {
  if (scales) return scaled(tensor, scales, rule.turn)
  const stored = tensor.dtype as keyof typeof weightBytes
  const each = weightBytes[stored]
  const own = { stored, halfHead: halfHeadOf(rule, tensor, config), scales: [] }
  if (rule.half !== undefined) return { ...own, ...halved(tensor, rule.half, each) }
  if (rule.turned) return { ...own, ...turned(tensor, rule.turn, each) }
  if (rule.turn !== undefined) return { ...own, ...alternate(tensor, rule.turn, each) }
  return { ...own, shape: [...tensor.shape].reverse(), rowStep: 0, columnStep: 1, parts: places(tensor, 1, 0) }
}

/** Matrices in a request to a GPU kernel. */
import type { OnDevice } from '../../../kernels/device-arrays.js'
import { blockOf, dtypes, packedBytes } from '../../../kernels/layout.js'
import type { Matrix } from '../../../kernels/requests.js'
import type { DType } from '../../../native.js'
import { arrayArgument, choiceArgument, integerArgument, partsOf } from './arguments.js'
import type { KernelCall } from './call.js'

const mostSize = 2 ** 31 - 1

export interface MatrixArgument {
  type: DType
  rows: number
  columns: number
  /** Of one expert, in the layout that was asked for. */
  bytes: number
}

/** Checks `count` matrices that follow one another; in the kernels' layout, or with `layout: 'file'` in the file's. */
export function matrixArgument(
  name: string,
  given: OnDevice<Matrix> | undefined,
  count: number,
  layout: 'packed' | 'file' = 'packed'
): MatrixArgument {
  const type = choiceArgument(`${name}.type`, given?.type, dtypes)
  const rows = integerArgument(`${name}.rows`, given?.rows, 1, mostSize)
  const columns = integerArgument(`${name}.columns`, given?.columns, 1, mostSize)
  const { block, bytes: blockBytes } = blockOf(type)
  partsOf(`${name}.columns`, columns, block)
  const bytes = layout === 'packed' ? packedBytes(type, rows, columns) : rows * (columns / block) * blockBytes
  arrayArgument(`${name}.data`, given?.data, 'u8', bytes * count)
  return { type, rows, columns, bytes }
}

/** A part of a binding. */
export const partOf = (binding: GPUBufferBinding, offset: number, size: number): GPUBufferBinding => ({
  buffer: binding.buffer,
  offset: (binding.offset ?? 0) + offset,
  size: Math.max(16, size)
})

/** Its data as a buffer. */
export const matrixInput = (
  call: KernelCall,
  name: string,
  given: OnDevice<Matrix>,
  bytes: number
): Promise<GPUBufferBinding> => call.input(`${name}.data`, given.data, 'u8', bytes)

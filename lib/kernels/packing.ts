/** Weights in the layout that every backend's kernels read. */
import type { NativeBackend } from '../native.js'
import { reading, validationError } from '../validation.js'
import { preparePack, prepareRouter, prepareSelectionBias } from './calls.js'
import type { Matrix } from './requests.js'

/** What these return begins at a cache line within a buffer that is a little larger. */
export interface Packing {
  /** Repacks a matrix, or several experts' one after another, from the file's layout into the kernels'. */
  pack(matrix: Matrix, experts?: number): Matrix
  /** Router weights [experts][width] f32, finite, as 24-bit integers with one exponent: w ≈ q · 2^(exponent - 23). */
  packRouter(weights: Float32Array): { router: Int32Array; routerExponent: number }
  /** A router's bias [experts] f32, finite, in the same form: b ≈ q · 2^(biasExponent - 23). */
  packBias(bias: Float32Array): { bias: Int32Array; biasExponent: number }
  /** A selection bias [experts] f32, finite, to the nearest 2^-30 and within ± 2^31, as integers of 2^-30. */
  packSelectionBias(bias: Float32Array): BigInt64Array
}

/** Numbers as 24-bit integers with one exponent. */
const integers = (handle: NativeBackend, op: string, weights: Float32Array) => {
  const { args, router } = reading(op, () => prepareRouter(weights))
  return { router, exponent: handle.call('packRouter', args, false) as number }
}

export const packing = (handle: NativeBackend): Packing => ({
  pack: (matrix, experts = 1) => {
    if (typeof matrix !== 'object' || matrix === null) throw validationError('pack', 'matrix', matrix, 'an object')
    const { args, out } = reading('pack', () =>
      preparePack(matrix.type, matrix.rows, matrix.columns, experts, matrix.data)
    )
    handle.call('pack', args, false)
    return { ...matrix, data: out }
  },
  packRouter: (weights) => {
    const { router, exponent: routerExponent } = integers(handle, 'packRouter', weights)
    return { router, routerExponent }
  },
  packBias: (bias) => {
    const { router, exponent: biasExponent } = integers(handle, 'packBias', bias)
    return { bias: router, biasExponent }
  },
  packSelectionBias: (bias) => {
    const { args, out } = reading('packSelectionBias', () => prepareSelectionBias(bias))
    handle.call('packSelectionBias', args, false)
    return out
  }
})

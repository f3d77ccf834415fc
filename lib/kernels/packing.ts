/** Weights in the layout that every backend's kernels read. */
import type { NativeBackend } from '../native.js'
import { reading, validationError } from '../validation.js'
import { preparePack, prepareRouter } from './calls.js'
import type { Matrix } from './requests.js'

export interface Packing {
  /** Repacks a matrix, or several experts' one after another, from the file's layout into the kernels'. */
  pack(matrix: Matrix, experts?: number): Matrix
  /** Router weights [experts][width] f32, finite, as 24-bit integers with one exponent: w ≈ q · 2^(exponent - 23). */
  packRouter(weights: Float32Array): { router: Int32Array; routerExponent: number }
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
    const { args, router } = reading('packRouter', () => prepareRouter(weights))
    const routerExponent = handle.call('packRouter', args, false) as number
    return { router, routerExponent }
  }
})

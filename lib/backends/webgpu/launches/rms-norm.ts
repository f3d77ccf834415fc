/** Launch of rms_norm (shaders/rms_norm). */
import type { DeviceFacts, Launch } from './launch.js'
import { bits, grid, words } from './launch.js'

export interface RmsNormShape {
  rows: number
  width: number
  /** Floats that are normalised together; default the whole row. */
  n?: number
  epsilon: number
  /** `x` is overwritten: one binding instead of two. */
  inPlace?: boolean
  /** Of a row, from its begin, in place; default all of it. */
  runs?: number | undefined
  /** Writes the quantised rows too: not in place, and whole rows are normalised. */
  quantise?: boolean
}

/** Buffers: x, weight, out, status, and with `quantise` the blocks (out, `activationBytes`); in place without out. */
export function rmsNormLaunch(shape: RmsNormShape, facts: DeviceFacts): Launch {
  const { rows, width, n = width, epsilon, inPlace = false, quantise = false } = shape
  const inRow = shape.runs ?? width / n
  const runs = rows * inRow
  return {
    shader: 'rms_norm',
    defines: { IN_PLACE: inPlace, QUANTISE: quantise },
    workgroups: grid(runs, facts),
    params: words(runs, n, inRow, bits(epsilon), width)
  }
}

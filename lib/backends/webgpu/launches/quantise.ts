import type { DeviceFacts, Launch } from './launch.js'
import { grid, words } from './launch.js'

export interface QuantiseShape {
  rows: number
  /** A multiple of 32. */
  columns: number
  /** Numbers from row to row, a multiple of 4; default `columns`. */
  stride?: number
  /** The rows are dispatched ones, of tokens that chose k experts each. */
  dispatched?: { k: number }
  /** Rows of one token, side by side. Default 1. */
  heads?: number
}

/** Buffers: x, out (`activationBytes`), status, and for dispatched rows slots. */
export function quantiseLaunch(
  { rows, columns, stride = columns, dispatched, heads = 1 }: QuantiseShape,
  facts: DeviceFacts
): Launch {
  return {
    shader: 'quantise',
    defines: { DISPATCHED: dispatched !== undefined },
    workgroups: grid(Math.ceil((rows * columns) / 32 / 64), facts),
    params: words(rows, columns, stride, dispatched?.k ?? heads)
  }
}

/** Launches of gated and of head_matmul's first half (shaders/gated, head_parts). */
import type { DeviceFacts, Launch } from './launch.js'
import { grid, words } from './launch.js'

/** Buffers: x (in place), gate [rows][n]; `byRow`: gate [rows], and status. */
export function gatedLaunch(
  { rows, n, byRow }: { rows: number; n: number; byRow: boolean },
  facts: DeviceFacts
): Launch {
  return {
    shader: 'gated',
    defines: { BY_ROW: byRow },
    workgroups: grid(Math.ceil((rows * n) / 64), facts),
    params: words(rows * n, n)
  }
}

export interface HeadPartsShape {
  /** Heads of all tokens. */
  rows: number
  columns: number
  carried: number
  /** Floats of a head's product. */
  to: number
}

/** Buffers: x, out, parts [rows][columns]. */
export function headPartsLaunch({ rows, columns, carried, to }: HeadPartsShape, facts: DeviceFacts): Launch {
  const count = rows * (columns + carried)
  return {
    shader: 'head_parts',
    defines: {},
    workgroups: grid(Math.ceil(count / 64), facts),
    params: words(count, columns, carried, to)
  }
}

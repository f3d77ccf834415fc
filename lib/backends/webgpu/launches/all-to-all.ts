/** Launches of allToAllPack and allToAllUnpack (shaders/all_to_all, shaders/rank_rows). */
import type { DeviceFacts, Launch } from './launch.js'
import { grid, words } from './launch.js'

export interface AllToAllShape {
  rows: number
  k: number
  width: number
  direction: 'pack' | 'unpack'
}

/** Buffers: from, slots, to (out), seen (zeros, a word a row), status. */
export function allToAllLaunch({ rows, k, width, direction }: AllToAllShape, facts: DeviceFacts): Launch {
  const blocks = Math.max(1, Math.ceil(width / 256))
  return {
    shader: 'all_to_all',
    defines: { PACK: direction === 'pack' },
    workgroups: grid(rows * blocks, facts),
    params: words(rows, k, width, blocks)
  }
}

/** Buffers: offsets, rank rows (out, a word a rank), status. No ranks: only looks at the offsets. */
export function rankRowsLaunch({ rows, experts, ranks }: { rows: number; experts: number; ranks: number }): Launch {
  return { shader: 'rank_rows', defines: {}, workgroups: [1, 1, 1], params: words(rows, experts, ranks) }
}

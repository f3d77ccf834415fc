/** Launches of dispatch and combine (shaders/dispatch, shaders/combine). */
import type { DeviceFacts, Launch } from './launch.js'
import { grid, words } from './launch.js'

export interface DispatchShape {
  tokens: number
  k: number
  experts: number
}

/**
 * Buffers: ids, offsets (out), slots (out), rows (out), status. With `tiles` (`expertTiles`) it does the work of `expertTilesLaunch` too, into
 * one more buffer.
 */
export function dispatchLaunch({ tokens, k, experts }: DispatchShape, tiles?: { size: number; most: number }): Launch {
  return {
    shader: 'dispatch',
    // counters in steps of 1,024, so that models share a pipeline
    defines: { EXPERTS: Math.ceil(experts / 1024) * 1024, TILES: tiles !== undefined },
    workgroups: [1, 1, 1],
    params: words(tokens * k, k, experts, tiles?.size ?? 1, tiles?.most ?? 0)
  }
}

export interface CombineShape extends DispatchShape {
  width: number
  /** Adds to `out` instead of replacing it. */
  add: boolean
}

/** Buffers: values, ids, weights, rows, out, status. */
export function combineLaunch({ tokens, k, experts, width, add }: CombineShape, facts: DeviceFacts): Launch {
  const blocks = Math.max(1, Math.ceil(width / 256))
  return {
    shader: 'combine',
    defines: {},
    workgroups: grid(tokens * blocks, facts),
    params: words(tokens, k, width, blocks, experts, add ? 1 : 0)
  }
}

import type { DeviceFacts, Launch } from './launch.js'
import { bits, grid, words } from './launch.js'

export interface RmsNormShape {
  rows: number
  width: number
  epsilon: number
}

/** Buffers: x, weight, out, status. */
export function rmsNormLaunch({ rows, width, epsilon }: RmsNormShape, facts: DeviceFacts): Launch {
  return { shader: 'rms_norm', defines: {}, workgroups: grid(rows, facts), params: words(rows, width, bits(epsilon)) }
}

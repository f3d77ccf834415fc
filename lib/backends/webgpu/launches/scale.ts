import type { DeviceFacts, Launch } from './launch.js'
import { bits, grid, words } from './launch.js'

/** x *= by. Buffer: x f32 [count], read and written. */
export const scaleLaunch = (count: number, by: number, facts: DeviceFacts): Launch => ({
  shader: 'scale',
  defines: {},
  workgroups: grid(Math.ceil(count / 64), facts),
  params: words(count, bits(by))
})

/** Launches of rope: the table of a step's positions, and the rotation (shaders/rope_table, rope). */
import type { RopeScaling } from '../../../kernels/rope-scaling.js'
import { scaledFrequency } from '../../../kernels/rope-scaling.js'
import type { DeviceFacts, Launch } from './launch.js'
import { bits, grid, words } from './launch.js'

export interface RopeShape {
  rows: number
  heads: number
  headDim: number
  rotaryDim: number
  pairs: 'neox' | 'interleaved'
  /** Floats of a head before those that are rotated. */
  offset?: number | undefined
}

export function ropeLaunch(
  { rows, heads, headDim, rotaryDim, pairs, offset = 0 }: RopeShape,
  facts: DeviceFacts
): Launch {
  const half = rotaryDim / 2
  const count = rows * heads * half
  return {
    shader: 'rope',
    defines: {},
    workgroups: grid(Math.ceil(count / 64), facts),
    params: words(count, heads, headDim, half, pairs === 'interleaved' ? 1 : 0, offset)
  }
}

/** Of one table: what `rope_table` reads, rotaryDim / 2 fractions of a turn for each position, (low, high) words of 64 bits. */
export function ropeFrequencies(
  base: number,
  rotaryDim: number,
  scaling?: RopeScaling,
  divisors?: Float32Array
): Uint32Array {
  const out = new Uint32Array(rotaryDim)
  for (let i = 0; i < rotaryDim / 2; i++) {
    const plain = base ** ((-2 * i) / rotaryDim)
    const frequency = (scaling ? scaledFrequency(plain, i, scaling) : plain) / (divisors?.[i] ?? 1)
    const scaled = (frequency / (2 * Math.PI)) * 2 ** 32
    out[2 * i + 1] = Math.floor(scaled)
    out[2 * i] = Math.floor((scaled % 1) * 2 ** 32)
  }
  return out
}

/** The table of a step's positions, [rows][rotaryDim / 2] of (cos, sin). */
export function ropeTableLaunch(
  shape: Pick<RopeShape, 'rows' | 'rotaryDim'> & { magnitude?: number },
  facts: DeviceFacts
): Launch {
  const half = shape.rotaryDim / 2
  return {
    shader: 'rope_table',
    defines: {},
    workgroups: grid(Math.ceil((shape.rows * half) / 64), facts),
    params: words(shape.rows, half, bits(shape.magnitude ?? 1))
  }
}

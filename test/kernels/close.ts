/** Comparison with an oracle in doubles. */
import type { Reckoned } from './oracle-weights.js'
import { bound, type Tolerance } from './tolerance.js'

/** The first coordinate where a kernel is further from the oracle than its tolerance allows, in words; undefined where none is. */
export function firstFar(got: ArrayLike<number>, oracle: Reckoned[], tolerance: Tolerance): string | undefined {
  if (got.length !== oracle.length) return `${got.length} numbers, the oracle has ${oracle.length}`
  for (let i = 0; i < oracle.length; i++) {
    const { value, scale, terms } = oracle[i]!
    const allowed = bound(tolerance, scale, terms)
    const off = Math.abs(got[i]! - value)
    if (!(off <= allowed)) return `[${i}] = ${got[i]}, the oracle says ${value}: off by ${off}, allowed ${allowed}`
  }
  return undefined
}

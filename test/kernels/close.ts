/** Comparison with an oracle in doubles, and of a GPU's results with the CPU's. */
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

/** The numbers of a result by name. */
function numbersOf(result: unknown, name = 'out'): [string, ArrayLike<number | bigint>][] {
  if (ArrayBuffer.isView(result)) return [[name, result as unknown as ArrayLike<number | bigint>]]
  if (typeof result === 'number') return [[name, name === 'token' ? Int32Array.of(result) : Float32Array.of(result)]]
  return Object.entries(result as object).flatMap(([key, value]) => numbersOf(value, key))
}

/** The first place where a result is further off than so many units of 2^-24 of the largest number around it. */
export function firstOff(got: unknown, expected: unknown, units: number): string | undefined {
  const [own, theirs] = [new Map(numbersOf(got)), numbersOf(expected)]
  if (own.size !== theirs.length) return `outputs ${[...own.keys()].join(', ')}`
  for (const [name, numbers] of theirs) {
    const found = own.get(name)
    if (found?.length !== numbers.length) return `${name}: ${found?.length} numbers, expected ${numbers.length}`
    const float = numbers instanceof Float32Array
    const largest = float ? numbers.reduce((most, x) => Math.max(most, Math.abs(x)), 0) : 0
    for (let i = 0; i < numbers.length; i++) {
      if (found[i] === numbers[i]) continue
      const near = float && Math.abs(Number(found[i]) - Number(numbers[i])) <= units * 2 ** -24 * largest
      if (!near) return `${name}[${i}] = ${found[i]}, expected ${numbers[i]}, the largest is ${largest}`
    }
  }
  return undefined
}

/** Sums in float64 for the naive forward pass. */

export const dot = (a: ArrayLike<number>, b: ArrayLike<number>, at = 0): number => {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[at + i]!
  return sum
}

export function softmax(x: number[]): number[] {
  const max = Math.max(...x)
  const e = x.map((v) => Math.exp(v - max))
  const sum = e.reduce((a, b) => a + b, 0)
  return e.map((v) => v / sum)
}

/** Rows of `weight`, which starts at `at`, times x. */
export function multiply(weight: Float32Array, x: number[], rows: number, at = 0): number[] {
  return Array.from({ length: rows }, (_, r) => dot(x, weight, at + r * x.length))
}

/** Sets of Unicode scalar values, as sorted ranges that do not touch, and their bytes in UTF-8. */

export type Range = readonly [from: number, to: number]
export type Ranges = readonly Range[]

const lastChar = 0x10ffff

/** What text can hold: everything but surrogates. */
export const everyChar: Ranges = [
  [0, 0xd7ff],
  [0xe000, lastChar]
]

/** Sorted, and without overlaps. */
export function joined(ranges: Ranges): Ranges {
  const result: [number, number][] = []
  for (const [from, to] of [...ranges].sort((a, b) => a[0] - b[0])) {
    const last = result.at(-1)
    if (last && from <= last[1] + 1) last[1] = Math.max(last[1], to)
    else result.push([from, to])
  }
  return result
}

/** What both of two sets have; each is sorted. */
export function common(a: Ranges, b: Ranges): Ranges {
  const result: Range[] = []
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    const [own, other] = [a[i]!, b[j]!]
    const from = Math.max(own[0], other[0])
    const to = Math.min(own[1], other[1])
    if (from <= to) result.push([from, to])
    if (own[1] < other[1]) i++
    else j++
  }
  return result
}

/** Every character that is not in a set. */
export function complement(ranges: Ranges): Ranges {
  const result: Range[] = []
  let next = 0
  for (const [from, to] of joined(ranges)) {
    if (from > next) result.push([next, from - 1])
    next = to + 1
  }
  if (next <= lastChar) result.push([next, lastChar])
  return common(result, everyChar)
}

/** Ends of what UTF-8 writes with 1, 2, 3 and 4 bytes. */
const widths = [0x7f, 0x7ff, 0xffff, lastChar]

const encoder = new TextEncoder()

/** The characters of one range as sequences of byte ranges: a text is in one of them where each byte is in its range. */
export function utf8Sequences([from, to]: Range): Range[][] {
  const widest = widths.find((end) => from <= end)!
  if (to > widest) return [...utf8Sequences([from, widest]), ...utf8Sequences([widest + 1, to])]
  if (to <= 0x7f) return [[[from, to]]]
  // A range of one sequence begins and ends at a border of the bytes behind the first in which its ends differ.
  for (let bits = 6; bits <= 18; bits += 6) {
    const low = (1 << bits) - 1
    if (from >> bits === to >> bits) break
    if ((from & low) !== 0) return [...utf8Sequences([from, from | low]), ...utf8Sequences([(from | low) + 1, to])]
    if ((to & low) !== low) return [...utf8Sequences([from, (to & ~low) - 1]), ...utf8Sequences([to & ~low, to])]
  }
  const [first, last] = [from, to].map((code) => encoder.encode(String.fromCodePoint(code))) as [Uint8Array, Uint8Array]
  return [Array.from(first, (byte, i): Range => [byte, last[i]!])]
}

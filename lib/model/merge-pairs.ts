/** The merging of adjacent pieces that all pair encodings share: lowest rank first, of equal ranks the leftmost, in n log n. */

/** A heap of numbers, smallest first. */
class MinHeap {
  private readonly items: number[] = []

  push(value: number): void {
    const { items } = this
    let at = items.push(value) - 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (items[parent]! <= value) break
      items[at] = items[parent]!
      at = parent
    }
    items[at] = value
  }

  pop(): number | undefined {
    const { items } = this
    const least = items[0]
    const value = items.pop()
    if (value === undefined || items.length === 0) return least
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= items.length) break
      if (child + 1 < items.length && items[child + 1]! < items[child]!) child++
      if (items[child]! >= value) break
      items[at] = items[child]!
      at = child
    }
    items[at] = value
    return least
  }
}

/**
 * Merges the pieces of `text` while two neighbours have a rank. `starts`: where each piece starts, ascending from 0; `rankOf`: rank of
 * a pair, an integer from 0, or undefined.
 */
export function mergePairs(
  text: string,
  starts: Int32Array,
  rankOf: (left: string, right: string) => number | undefined
): string[] {
  const n = text.length
  // pieces are ranges of the text, linked both ways and named by where they start
  const next = new Int32Array(n + 1)
  const previous = new Int32Array(n + 1).fill(-1)
  starts.forEach((start, i) => {
    next[start] = starts[i + 1] ?? n
    previous[next[start]!] = start
  })
  /** Rank of the pair that starts here; -1 where there is none or the piece is gone. */
  const rankAt = new Int32Array(n).fill(-1)
  const queue = new MinHeap()
  const rankPair = (start: number): void => {
    const middle = next[start]!
    const rank = middle < n ? rankOf(text.slice(start, middle), text.slice(middle, next[middle]!)) : undefined
    rankAt[start] = rank ?? -1
    if (rank !== undefined) queue.push(rank * n + start)
  }
  for (const start of starts) rankPair(start)
  for (let key = queue.pop(); key !== undefined; key = queue.pop()) {
    const start = key % n
    // a pair that has changed since it was queued has another rank, or none
    if (rankAt[start] !== (key - start) / n) continue
    const gone = next[start]!
    rankAt[gone] = -1
    next[start] = next[gone]!
    previous[next[gone]!] = start
    rankPair(start)
    if (previous[start]! >= 0) rankPair(previous[start]!)
  }
  const pieces: string[] = []
  for (let start = 0; start < n; start = next[start]!) pieces.push(text.slice(start, next[start]!))
  return pieces
}

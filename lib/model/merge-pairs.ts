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

/** What two pieces become. A piece is a number from 0; a negative one is never asked for and never merges. */
export interface Merges {
  /** The merge of two pieces: a number from 0, or -1 where they do not merge. */
  find(left: number, right: number): number
  /** Its rank, an integer from 0. */
  rankOf(merge: number): number
  /** The piece that it makes. */
  pieceOf(merge: number): number
}

/** Merges `pieces` while two neighbours can; what is left, in order. */
export function mergePieces(pieces: Int32Array, merges: Merges): number[] {
  const n = pieces.length
  if (n < 2) return Array.from(pieces)
  // a piece is named by where it starts, and linked both ways
  const next = new Int32Array(n)
  const previous = new Int32Array(n + 1)
  for (let i = 0; i < n; i++) {
    next[i] = i + 1
    previous[i] = i - 1
  }
  previous[n] = n - 1
  const piece = pieces.slice()
  /** The merge of the pair that starts here; -1 where there is none or the piece is gone. */
  const mergeAt = new Int32Array(n).fill(-1)
  const queue = new MinHeap()
  const look = (start: number): void => {
    const middle = next[start]!
    const mergeable = middle < n && piece[start]! >= 0 && piece[middle]! >= 0
    const merge = mergeable ? merges.find(piece[start]!, piece[middle]!) : -1
    mergeAt[start] = merge
    if (merge >= 0) queue.push(merges.rankOf(merge) * n + start)
  }
  for (let start = 0; start < n; start++) look(start)
  for (let key = queue.pop(); key !== undefined; key = queue.pop()) {
    const start = key % n
    const merge = mergeAt[start]!
    // a pair that has changed since it was queued has another rank, or none
    if (merge < 0 || merges.rankOf(merge) !== (key - start) / n) continue
    const gone = next[start]!
    mergeAt[gone] = -1
    next[start] = next[gone]!
    previous[next[gone]!] = start
    piece[start] = merges.pieceOf(merge)
    look(start)
    if (previous[start]! >= 0) look(previous[start]!)
  }
  const left: number[] = []
  for (let start = 0; start < n; start = next[start]!) left.push(piece[start]!)
  return left
}

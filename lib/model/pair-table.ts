/** A table from pairs of numbers to a number: open addressing in one typed array, several times as fast as a Map of texts. */
import { randomBytes } from 'node:crypto'

const EMPTY = -1
/** Pairs that a memory holds. */
const REMEMBERED = 400_000

/** Where a pair lies differs from table to table: who could foresee it could choose pairs that all lie in one place. */
export class PairTable {
  private readonly seed = randomBytes(4).readInt32LE()
  /** Per place: left, right, value. */
  private slots: Int32Array
  private mask: number
  private count = 0

  /** @param expected pairs that it will have, about */
  constructor(expected: number) {
    const places = 2 ** Math.ceil(Math.log2(Math.max(8, 2 * expected)))
    this.slots = new Int32Array(3 * places).fill(EMPTY)
    this.mask = places - 1
  }

  /** Pairs. */
  get size(): number {
    return this.count
  }

  /** Undefined where the pair is not there. Both numbers are 0 or more. */
  get(left: number, right: number): number | undefined {
    const at = this.place(left, right)
    return this.slots[at] === EMPTY ? undefined : this.slots[at + 2]
  }

  set(left: number, right: number, value: number): void {
    const at = this.place(left, right)
    if (this.slots[at] === EMPTY) this.count++
    this.slots[at] = left
    this.slots[at + 1] = right
    this.slots[at + 2] = value
    if (2 * this.count > this.mask) this.grow()
  }

  /** Where the pair is, or would be. */
  private place(left: number, right: number): number {
    const { slots, mask } = this
    // mixed as MurmurHash3 mixes at its end
    let hash = Math.imul(left ^ this.seed, 0x85ebca6b)
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
    hash = Math.imul(hash ^ (hash >>> 16) ^ right, 0x85ebca6b)
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
    hash ^= hash >>> 16
    for (let at = hash & mask; ; at = (at + 1) & mask) {
      const slot = 3 * at
      if (slots[slot] === EMPTY || (slots[slot] === left && slots[slot + 1] === right)) return slot
    }
  }

  private grow(): void {
    const old = this.slots
    this.slots = new Int32Array(2 * old.length).fill(EMPTY)
    this.mask = 2 * this.mask + 1
    this.count = 0
    for (let at = 0; at < old.length; at += 3) if (old[at] !== EMPTY) this.set(old[at]!, old[at + 1]!, old[at + 2]!)
  }
}

/** What was found for pairs before. It is emptied when it is full: all of it stays below 25 MB. */
export class PairMemory {
  private table = new PairTable(1024)

  get(left: number, right: number): number | undefined {
    return this.table.get(left, right)
  }

  /** Gives `value` back. */
  keep(left: number, right: number, value: number): number {
    if (this.table.size >= REMEMBERED) this.table = new PairTable(1024)
    this.table.set(left, right, value)
    return value
  }
}

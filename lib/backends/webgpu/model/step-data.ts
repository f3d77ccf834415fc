/**
 * What changes from step to step, in one buffer that is written at once: token ids, places in the KV cache, masks, rotations. Each section
 * is bound for itself, so that launches and bind groups stay the same.
 */

import { pagePositions } from '../../../kernels/layout.js'
import { sizeOf } from '../buffers.js'
import type { GpuSequence } from './sequence.js'

/** A mask number that means: all experts are enabled. */
export const noMask = 0xffffffff

export interface DataShape {
  /** Tokens of the step. */
  rows: number
  /** Entries of all page tables together, at most. */
  pages: number
  /** Words of one TierSet's mask over all layers; of as many masks as there are rows. */
  maskWords: number
  /** Floats per token of each rotation table. */
  rotations: readonly number[]
}

interface Section {
  offset: number
  size: number
}

/** A part of a step that belongs to one sequence. */
export interface Run {
  sequence: GpuSequence
  tokens: Int32Array
  enabled?: Uint8Array | undefined
}

const wordBytes = 4

/** What lies where, and the bytes of all. `alignment`: of a binding's offset. */
export function layoutOf({ rows, pages, maskWords, rotations }: DataShape, alignment: number) {
  let end = 0
  const section = (words: number): Section => {
    const offset = Math.ceil(end / alignment) * alignment
    const size = Math.max(1, words) * wordBytes
    end = offset + size
    return { offset, size }
  }
  const sections = {
    tokens: section(rows),
    positions: section(rows),
    places: section(2 * rows),
    pages: section(pages),
    maskOf: section(rows),
    rotations: rotations.map((floats) => section(rows * floats)),
    masks: section(rows * maskWords)
  }
  return { ...sections, bytes: sizeOf(end) }
}

export class StepData {
  /** Bytes of the buffer. */
  readonly bytes: number
  readonly tokens: Section
  /** Absolute positions. */
  readonly positions: Section
  /** Per token: its position, and where its sequence's page table begins. */
  readonly places: Section
  readonly pages: Section
  /** Per token: the number of its mask. */
  readonly maskOf: Section
  readonly rotations: readonly Section[]
  /** Last: only as many as there are are written. */
  readonly masks: Section
  readonly #shape: DataShape
  readonly #memory: ArrayBuffer
  readonly #words: Uint32Array<ArrayBuffer>
  /** Words that the step before wrote to the masks' section. */
  #end = 0

  constructor(shape: DataShape, alignment: number) {
    const layout = layoutOf(shape, alignment)
    this.tokens = layout.tokens
    this.positions = layout.positions
    this.places = layout.places
    this.pages = layout.pages
    this.maskOf = layout.maskOf
    this.rotations = layout.rotations
    this.masks = layout.masks
    this.bytes = layout.bytes
    this.#shape = shape
    this.#memory = new ArrayBuffer(this.bytes)
    this.#words = new Uint32Array(this.#memory)
  }

  /** Gathers the data of a step. `maskOf` packs a mask's bits, of which every layer has `maskWords / layers` words. */
  fill(runs: readonly Run[], packed: (enabled: Uint8Array) => Uint32Array): void {
    const { maskWords } = this.#shape
    const [tokens, positions, places, pages] = [this.tokens, this.positions, this.places, this.pages].map(
      ({ offset }) => offset / wordBytes
    ) as [number, number, number, number]
    const [maskOf, masks] = [this.maskOf.offset / wordBytes, this.masks.offset / wordBytes]
    const words = this.#words
    const known = new Map<Uint8Array, number>()
    let [row, page] = [0, 0]
    for (const { sequence, tokens: ids, enabled } of runs) {
      let mask = noMask
      if (enabled) {
        mask = known.get(enabled) ?? known.size
        if (mask === known.size) {
          known.set(enabled, mask)
          words.set(packed(enabled), masks + mask * maskWords)
        }
      }
      const start = sequence.length
      const used = Math.ceil((start + ids.length) / pagePositions)
      for (let i = 0; i < used; i++) words[pages + page + i] = sequence.pages[i] as number
      for (let t = 0; t < ids.length; t++, row++) {
        words[tokens + row] = ids[t] as number
        words[positions + row] = start + t
        words[places + 2 * row] = start + t
        words[places + 2 * row + 1] = page
        words[maskOf + row] = mask
      }
      page += used
    }
    this.#end = known.size === 0 ? masks : masks + known.size * maskWords
  }

  /** The positions of `rows` tokens, as they are in the data. */
  get positionWords(): Uint32Array {
    return this.#words.subarray(this.positions.offset / wordBytes, this.positions.offset / wordBytes + this.#shape.rows)
  }

  /** A rotation table to fill. */
  rotation(index: number): Float32Array {
    const { offset, size } = this.rotations[index] as Section
    return new Float32Array(this.#memory, offset, size / wordBytes)
  }

  /** What is to be written to the buffer's begin. */
  get written(): Uint32Array<ArrayBuffer> {
    return this.#words.subarray(0, this.#end)
  }
}

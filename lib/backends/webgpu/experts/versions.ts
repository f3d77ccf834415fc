/**
 * Versions of experts that lie beside those in the usual places, as on the CPU (csrc/core/expert_versions.h): the first version of an expert is
 * read and cached like any other, later ones are in GPU memory of their own until no request needs the ones before.
 */
import { createError } from '../../../errors/index.js'
import type { ExpertBlobs, ExpertLayout, NativeAddon, NativeExpertReader, PlacedVersions } from '../../../native.js'
import { validationError } from '../../../validation.js'
import type { ExpertParts } from './experts.js'
import type { SpareSlots } from './spare-slots.js'

type Version = PlacedVersions['versions'][number]

/** A version beside the first one. */
interface Held {
  expert: number
  epoch: number
  bytes: string
  slot: number
}

/** Slots of the versions that an epoch uses beside the first ones, by expert. */
export type Beside = ReadonlyMap<number, number>

const nothing: Beside = new Map()

/** What a version's bytes are: equal texts are equal bytes. Empty: what the model was loaded with. */
const bytesOf = ({ path, offset = 0, crc32c = 0 }: Version): string =>
  path === undefined ? '' : `${path} ${offset} ${crc32c}`

/** A first version that takes the usual place: its bytes, or the slot in which they lie already. */
interface First {
  layer: number
  expert: number
  version: Version
  from: ArrayBuffer | number | undefined
}

interface VersionsSetup {
  parts: ExpertParts
  addon: NativeAddon
  /** Not there: every expert has a slot for good. */
  reader: NativeExpertReader | undefined
  blobs: ExpertBlobs | undefined
  /** Slots for versions, which nothing else uses until they are given back. */
  spare: SpareSlots
}

export class Versions {
  readonly #setup: VersionsSetup
  /** Per layer. */
  readonly #held: Held[][]
  /** Of experts whose first version is not what the model was loaded with. */
  readonly #first = new Map<number, string>()

  constructor(setup: VersionsSetup) {
    this.#setup = setup
    this.#held = setup.parts.layouts.map(() => [])
  }

  /** Of all layers. */
  get count(): number {
    return this.#held.reduce((sum, held) => sum + held.length, 0)
  }

  /** Layers that hold versions. */
  layers(): number[] {
    return [...this.#held.keys()].filter((layer) => this.#of(layer).length > 0)
  }

  /** Slots of all versions that a layer holds. */
  slots(layer: number): number[] {
    return this.#of(layer).map(({ slot }) => slot)
  }

  /** What requests of an epoch use in a layer in place of the first versions. */
  beside(layer: number, epoch: number): Beside {
    const held = this.#of(layer)
    if (held.length === 0) return nothing
    const newest = new Map<number, Held>()
    for (const own of held) {
      if (own.epoch > epoch || (newest.get(own.expert)?.epoch ?? -1) > own.epoch) continue
      newest.set(own.expert, own)
    }
    return new Map([...newest].map(([expert, { slot }]) => [expert, slot]))
  }

  /** Splits what a step is made of into those that use the same versions, in the order of each one's first. */
  split<Item extends { epoch?: number }>(items: readonly Item[]): (readonly Item[])[] {
    if (this.count === 0) return [items]
    const parts = new Map<string, Item[]>()
    for (const item of items) {
      const { epoch = 0 } = item
      const key = this.layers().map((layer) => [...this.beside(layer, epoch).values()].join())
      const part = parts.get(key.join(' '))
      if (part) part.push(item)
      else parts.set(key.join(' '), [item])
    }
    return [...parts.values()]
  }

  /** NativeModel.placeVersions; between two steps. Resolves with the layers whose experts have changed. */
  async place(lists: readonly PlacedVersions[]): Promise<Set<number>> {
    const { parts, spare, reader } = this.#setup
    const made: { layer: number; held: Held }[] = []
    const firsts: First[] = []
    try {
      for (const { layer, expert, versions } of lists) {
        for (const [i, version] of versions.entries()) {
          const bytes = bytesOf(version)
          const here = this.#of(layer).find((held) => held.expert === expert && held.bytes === bytes)
          if (i === 0) {
            if (bytes === this.#firstOf(layer, expert)) continue
            firsts.push({ layer, expert, version, from: await this.#bytes(layer, expert, version, here) })
          } else if (!here) {
            const blob = await this.#read(layer, expert, version)
            const slot = await spare.take()
            made.push({ layer, held: { expert, epoch: version.epoch, bytes, slot } })
            parts.slabs.write(slot, blob)
          }
        }
      }
      await reader?.replaceExperts(firsts.map(({ layer, expert, version }) => ({ layer, expert, ...placeOf(version) })))
    } catch (error) {
      for (const { held } of made) spare.giveBack(held.slot)
      throw error
    }
    for (const first of firsts) this.#takePlace(first)
    for (const { layer, held } of made) this.#of(layer).push(held)
    for (const list of lists) this.#leaveOut(list)
    return new Set(lists.map(({ layer }) => layer))
  }

  #of(layer: number): Held[] {
    return this.#held[layer] as Held[]
  }

  #firstOf(layer: number, expert: number): string {
    const { parts, blobs } = this.#setup
    const entry = layer * parts.table.experts + expert
    const known = this.#first.get(entry)
    if (known !== undefined || !blobs) return known ?? ''
    const path = blobs.files[blobs.fileIndex[entry] as number]
    if (path === undefined) return ''
    return bytesOf({ epoch: 0, path, offset: blobs.offset[entry] ?? 0, crc32c: blobs.crc32c[entry] ?? 0 })
  }

  /** What a first version is written to its slot from; nothing where it is read when it is demanded. */
  async #bytes(layer: number, expert: number, version: Version, here: Held | undefined): Promise<First['from']> {
    if (version.path === undefined) {
      const text = `what expert ${expert} of layer ${layer} was loaded with is no longer there`
      throw createError('VALIDATION_ERROR', `placeVersions: ${text}`, { argument: 'versions', layer, expert })
    }
    if (this.#setup.reader) return undefined
    return here ? here.slot : this.#read(layer, expert, version)
  }

  #read(layer: number, expert: number, version: Version): Promise<ArrayBuffer> {
    const { addon, parts } = this.#setup
    const { gate, up, down } = parts.layouts[layer] as ExpertLayout
    const shape = { gate: gate.type, up: up.type, down: down.type, width: gate.columns, hidden: gate.rows }
    return addon.readVersion({ layer, expert, ...placeOf(version) }, shape)
  }

  #takePlace({ layer, expert, version, from }: First): void {
    const { parts, reader } = this.#setup
    const { slots, slabs, table } = parts
    const entry = layer * table.experts + expert
    this.#first.set(entry, bytesOf(version))
    if (!reader) {
      const slot = table.slotOf(entry)
      if (typeof from === 'number') slabs.copy(from, slot)
      else if (from) slabs.write(slot, from)
      return
    }
    // What is in a slot is the version before.
    if (!table.has(entry)) return
    slots.drop(Uint32Array.of(entry))
    table.clear([entry])
  }

  /** What the list does not have is not needed any more. */
  #leaveOut({ layer, expert, versions }: PlacedVersions): void {
    const epochs = new Map(versions.slice(1).map((version) => [bytesOf(version), version.epoch]))
    this.#held[layer] = this.#of(layer).filter((held) => {
      if (held.expert !== expert) return true
      const epoch = epochs.get(held.bytes)
      if (epoch === undefined) this.#setup.spare.giveBack(held.slot)
      else held.epoch = epoch
      return epoch !== undefined
    })
  }
}

function placeOf({ epoch, path, offset, crc32c }: Version): Required<Version> {
  if (path === undefined || offset === undefined || crc32c === undefined)
    throw validationError('placeVersions', 'path', path, 'a file, the place of a blob in it and its checksum')
  return { epoch, path, offset, crc32c }
}

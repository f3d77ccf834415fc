/** A layer below full residency: decide, write what is missing, and hand it to the GPU in parts that fit its slots. */
import type { NativeCancel, SlotItems } from '../../../native.js'
import type { Commands } from '../device.js'
import type { ExpertParts } from './experts.js'
import type { LayerLaunches } from './launches.js'
import { slotItems } from './slot-table.js'
import type { Beside } from './versions.js'

const noItems: SlotItems = new Uint32Array(0)

/** Slabs in which a part's experts lie, and versions beside them, ascending. */
function slabsOf({ slabs }: ExpertParts, part: SlotItems, beside: Beside | undefined): number[] {
  const found = new Set<number>()
  for (const { slot } of slotItems(part)) found.add(slabs.slabOf(slot))
  for (const slot of beside?.values() ?? []) found.add(slabs.slabOf(slot))
  return [...found].sort((a, b) => a - b)
}

/** Of a layer's routes those that the cache is asked for. */
export const withoutVersions = (ids: Int32Array, beside: Beside): Int32Array =>
  beside.size > 0 ? ids.filter((expert) => !beside.has(expert)) : ids

/**
 * Submits every part but the last, and resolves with what encodes that one and the sum. What is written to a slot after a submit does not
 * reach what was submitted before: so a part's slots pass on as soon as it is submitted, and the next part's bytes come while it is computed.
 * `beside`: versions that this step uses in place of the first ones; they are there, and go with the first part.
 */
export async function runLayer(
  parts: ExpertParts,
  launches: LayerLaunches,
  layer: number,
  ids: Int32Array,
  beside: Beside,
  cancel: NativeCancel
): Promise<(commands: Commands) => void> {
  const { device, slots, table, transfer } = parts
  const queue: SlotItems[] = []
  const take = (part: SlotItems) => {
    table.apply(part)
    queue.push(part)
  }
  try {
    slots.beginLayer(layer, withoutVersions(ids, beside)).forEach(take)
    for (let begins = true; ; begins = false) {
      // There is none where all that is wanted is a version.
      const part = queue.shift() ?? noItems
      const versions = begins ? beside : undefined
      await transfer.bring(part, cancel)
      const lying = slabsOf(parts, part, versions)
      await launches.bind(layer, lying)
      const more = slots.advance()
      const ends = !more && queue.length === 0
      const whole = begins && ends
      table.show(layer, whole ? undefined : part, versions)
      if (more) take(more)
      const encode = (commands: Commands) => {
        if (begins) launches.begin(commands, layer, whole)
        launches.part(commands, layer, lying)
        if (ends) launches.end(commands, layer)
      }
      if (ends) return encode
      device.submit(encode)
    }
  } catch (error) {
    transfer.abandon(queue)
    throw error
  } finally {
    slots.endLayer()
  }
}

/** A layer below full residency: decide, write what is missing, and hand it to the GPU in parts that fit its slots. */
import type { NativeCancel, SlotItems } from '../../../native.js'
import type { Commands } from '../device.js'
import type { ExpertParts } from './experts.js'
import type { LayerLaunches } from './launches.js'
import { slotItems } from './slot-table.js'

/** Slabs in which a part's experts lie, ascending. */
function slabsOf({ slabs }: ExpertParts, part: SlotItems): number[] {
  const found = new Set<number>()
  for (const { slot } of slotItems(part)) found.add(slabs.slabOf(slot))
  return [...found].sort((a, b) => a - b)
}

/**
 * Submits every part but the last, and resolves with what encodes that one and the sum. What is written to a slot after a submit does not
 * reach what was submitted before: so a part's slots pass on as soon as it is submitted, and the next part's bytes come while it is computed.
 */
export async function runLayer(
  parts: ExpertParts,
  launches: LayerLaunches,
  layer: number,
  ids: Int32Array,
  cancel: NativeCancel
): Promise<(commands: Commands) => void> {
  const { device, slots, table, transfer } = parts
  const queue: SlotItems[] = []
  const take = (part: SlotItems) => {
    table.apply(part)
    queue.push(part)
  }
  try {
    slots.beginLayer(layer, ids).forEach(take)
    for (let begins = true; ; begins = false) {
      const part = queue.shift()
      if (!part) return () => {}
      await transfer.bring(part, cancel)
      const lying = slabsOf(parts, part)
      await launches.bind(layer, lying)
      const more = slots.advance()
      const ends = !more && queue.length === 0
      const whole = begins && ends
      table.show(layer, whole ? undefined : part)
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

/** Where each expert of a model is and how often it was used, as few bytes. */
import type { Engine } from '../engine.js'

/** Bits of an expert's flags. */
const [pinnedBit, loadingBit, unavailableBit, starvedBit] = [1, 2, 4, 8] as const

/**
 * Little-endian: u16 layers, u16 experts of one layer, 4 bytes of zero; then of every expert, by layer: f64 tokens that went to it since the load;
 * u8 where it is (0 hot, 1 warm, 2 cold, 3 archive, 4 absent); u8 flags (1 pinned, 2 being read, 4 could not be read, 8 starved); u8 index of its
 * tier in the model's list. MODEL_NOT_LOADED.
 */
export function expertsFrame(engine: Engine, model: string): Buffer {
  const view = engine.placement(model)
  const { use } = engine.modelStats(model)
  const { layers, experts, where, tiers } = view
  const count = layers * experts
  const frame = Buffer.alloc(8 + count * 11)
  frame.writeUInt16LE(layers, 0)
  frame.writeUInt16LE(experts, 2)
  const tierOf = new Map(tiers.map(({ name }, index) => [name, index]))
  const [places, flags, indices] = [8, 9, 10].map((bytes) => frame.subarray(8 + count * bytes))
  for (let index = 0; index < count; index++) {
    const { tier, pinned, residency } = view.expert(Math.floor(index / experts), index % experts)
    frame.writeDoubleLE(use.rows[index]!, 8 + 8 * index)
    places![index] = where[index]!
    const reading = residency === 'loading' ? loadingBit : residency === 'unavailable' ? unavailableBit : 0
    flags![index] = reading | (pinned ? pinnedBit : 0)
    indices![index] = tierOf.get(tier)!
  }
  for (const { layer, expert } of use.starved) flags![layer * experts + expert]! |= starvedBit
  return frame
}

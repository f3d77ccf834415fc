/** What an engine is told of experts on the GPU, in the words that it has for those of the CPU. */
import type { ExpertStats, NativeExpertReader, Whereabouts } from '../../../native.js'
import type { ExpertParts } from './experts.js'

/** Bits of Whereabouts and of NativeExpertReader.residency. */
const [residencyBits, resident, pinnedBit, demotedBit, localBit, deviceBit] = [3, 2, 4, 8, 16, 32] as const

/** Counts of the slots; what was read, of the files. */
export function statsOf({ slots, slabs, table, transfer }: ExpertParts, reader: NativeExpertReader): ExpertStats {
  const { layers, used, slots: count, ...counts } = slots.counts()
  const host = reader.stats()
  const { demandBytes, prefetchBytes, prefetchUsedBytes, prefetchWastedBytes, readErrors, bookkeepingMs } = host
  const bytes = count * slabs.slotBytes
  const wasted = reader.wastedBytes()
  return {
    ...counts,
    late: 0,
    demandBytes,
    prefetchBytes,
    prefetchUsedBytes,
    prefetchWastedBytes,
    readErrors,
    bookkeepingMs,
    waitMs: transfer.waitMs,
    pressureEvents: 0,
    residentBytes: used * slabs.slotBytes,
    budgetBytes: bytes,
    limitBytes: bytes,
    residency: reader.residency().map((bits, entry) => (table.has(entry) ? resident : bits & residencyBits)),
    layers: layers.map(({ uses, hits, misses, predictable, predicted, present, asked, prefetching }, layer) => ({
      uses,
      hits,
      late: 0,
      misses,
      predictable,
      predicted,
      present,
      prefetches: asked,
      prefetchWastedBytes: wasted[layer] as number,
      prefetching
    })),
    host,
    uploads: transfer.uploads,
    uploadedBytes: transfer.uploadedBytes
  }
}

/** Hot is what has a slot; the budget is that of the slots. */
export function whereaboutsOf({ slots, slabs, table, layouts }: ExpertParts, reader: NativeExpertReader): Whereabouts {
  const { used, slots: count } = slots.counts()
  const placed = slots.placement()
  const bits = reader.residency().map((host, entry) => {
    const residency = table.has(entry) ? resident | deviceBit : host & residencyBits
    return residency | (host & localBit) | ([0, pinnedBit, demotedBit, 0][placed[entry] as number] as number)
  })
  return {
    bits,
    ownMemory: true,
    layerBytes: Float64Array.from(layouts, ({ bytes }) => bytes),
    usedBytes: used * slabs.slotBytes,
    budgetBytes: count * slabs.slotBytes
  }
}

/** Whether a manifest agrees with itself: every expert exactly once, in blobs that lie in their files and do not overlap. Reads no file. */

import { SUPPORTED_TYPES } from '../model/tensors.js'
import type { DType, ExpertLayout } from '../native.js'
import type { Manifest, ManifestExpert, ManifestLayer } from './manifest.js'

/** Blobs begin and end at multiples of this. */
export const BLOB_ALIGNMENT = 4096

export interface Fault {
  /** Where in the manifest: `layers.3.experts.7`. */
  path: string
  message: string
}

/** Lays an expert out; the addon's own function. */
export type LayOut = (options: { gate: DType; up: DType; down: DType; width: number; hidden: number }) => ExpertLayout

/** The manifest without the experts of tiers that it does not define: those of a later version, or of another program. */
export function withoutUnknownTiers(manifest: Manifest): Manifest {
  const known = new Set(manifest.tiers.map(({ name }) => name))
  const layers = manifest.layers.map((layer) => {
    const experts = layer.experts.filter(({ tier }) => known.has(tier))
    return experts.length === layer.experts.length ? layer : { ...layer, experts }
  })
  return { ...manifest, layers }
}

class Faults {
  readonly list: Fault[] = []
  add(path: string, message: string): void {
    if (this.list.length < 1000) this.list.push({ path, message })
  }
}

function checkNames(manifest: Manifest, faults: Faults): void {
  const seen = new Set<string>()
  const once = (kind: string, name: string, path: string) => {
    if (seen.has(`${kind} ${name}`)) faults.add(path, `the ${kind} ${name} is there twice`)
    seen.add(`${kind} ${name}`)
  }
  manifest.tiers.forEach(({ name }, i) => {
    once('tier', name, `tiers.${i}`)
  })
  manifest.shards.forEach(({ path }, i) => {
    once('file', path, `shards.${i}`)
  })
  manifest.optimizer?.shards.forEach(({ path }, i) => {
    once('file', path, `optimizer.shards.${i}`)
  })
  manifest.layers.forEach(({ layer }, i) => {
    once('layer', String(layer), `layers.${i}`)
  })
  const bases = manifest.shards.filter(({ kind }) => kind === 'base').length
  if (bases !== 1) faults.add('shards', `there are ${bases} base files, one is needed`)
  if (manifest.layers.length !== manifest.model.layers) {
    faults.add('layers', `there are ${manifest.layers.length} layers of the model's ${manifest.model.layers}`)
  }
  const { experts, expertsUsed } = manifest.model
  if (expertsUsed > experts) faults.add('model.expertsUsed', `${expertsUsed} of ${experts} experts cannot be used`)
}

/** The parts against what the layout says that they are. */
function checkParts(manifest: Manifest, layer: ManifestLayer, path: string, layOut: LayOut, faults: Faults): void {
  const { width, hidden } = manifest.model
  const parts = { gate: layer.gate, up: layer.up, down: layer.down }
  for (const [name, { type }] of Object.entries(parts)) {
    if (SUPPORTED_TYPES.includes(type as DType)) continue
    faults.add(`${path}.${name}`, `the type ${type} is not supported; ${SUPPORTED_TYPES.join(', ')} are`)
    return
  }
  const type = (name: keyof typeof parts) => parts[name].type as DType
  let wanted: ExpertLayout
  try {
    wanted = layOut({ gate: type('gate'), up: type('up'), down: type('down'), width, hidden })
  } catch {
    faults.add(path, `experts of ${hidden} × ${width} weights cannot have these types`)
    return
  }
  for (const name of ['gate', 'up', 'down'] as const) {
    for (const field of ['rows', 'columns', 'offset', 'bytes'] as const) {
      if (parts[name][field] === wanted[name][field]) continue
      faults.add(`${path}.${name}.${field}`, `it is ${parts[name][field]}, the layout has ${wanted[name][field]}`)
    }
  }
  if (layer.blobBytes !== wanted.bytes) {
    faults.add(`${path}.blobBytes`, `it is ${layer.blobBytes}, the layout has ${wanted.bytes}`)
  }
}

interface Place {
  offset: number
  end: number
  path: string
}

function checkExpert(manifest: Manifest, layer: ManifestLayer, entry: ManifestExpert, path: string, faults: Faults) {
  const tier = manifest.tiers.find(({ name }) => name === entry.tier)
  if (tier && entry.group >= tier.groups) {
    faults.add(path, `there is no group ${entry.group} in the tier ${tier.name} of ${tier.groups}`)
  }
  const shard = manifest.shards[entry.shard]
  if (shard?.kind !== 'experts') {
    faults.add(path, `there is no file of experts ${entry.shard}`)
    return undefined
  }
  if (entry.bytes !== layer.blobBytes) {
    faults.add(path, `its blob has ${entry.bytes} bytes, those of the layer have ${layer.blobBytes}`)
  }
  if (entry.offset % BLOB_ALIGNMENT !== 0 || entry.bytes % BLOB_ALIGNMENT !== 0) {
    faults.add(path, `its blob at ${entry.offset} is not aligned to ${BLOB_ALIGNMENT} bytes`)
  }
  const end = entry.offset + entry.bytes
  if (end > shard.bytes) faults.add(path, `its blob ends at ${end} in ${shard.path} of ${shard.bytes} bytes`)
  return { offset: entry.offset, end, path }
}

function checkExperts(manifest: Manifest, faults: Faults): void {
  const places = new Map<number, Place[]>()
  const counts = new Map(manifest.tiers.map(({ name }) => [name, { experts: 0, bytes: 0 }]))
  manifest.layers.forEach((layer, l) => {
    const seen = new Set<number>()
    layer.experts.forEach((entry, e) => {
      const path = `layers.${l}.experts.${e}`
      if (entry.expert >= manifest.model.experts) {
        faults.add(path, `there is no expert ${entry.expert} among ${manifest.model.experts}`)
      }
      if (seen.has(entry.expert)) faults.add(path, `expert ${entry.expert} of layer ${layer.layer} is there twice`)
      seen.add(entry.expert)
      const place = checkExpert(manifest, layer, entry, path, faults)
      const list = places.get(entry.shard)
      if (place && list) list.push(place)
      else if (place) places.set(entry.shard, [place])
      const count = counts.get(entry.tier)
      if (count) {
        count.experts++
        count.bytes += entry.bytes
      }
    })
    for (let expert = 0; expert < manifest.model.experts; expert++) {
      if (!seen.has(expert)) faults.add(`layers.${l}`, `expert ${expert} of layer ${layer.layer} is missing`)
    }
  })
  manifest.tiers.forEach(({ name, experts, bytes }, i) => {
    const found = counts.get(name)!
    if (found.experts === experts && found.bytes === bytes) return
    faults.add(
      `tiers.${i}`,
      `${name} states ${experts} experts of ${bytes} bytes, it has ${found.experts} of ${found.bytes}`
    )
  })
  for (const list of places.values()) {
    list.sort((a, b) => a.offset - b.offset)
    for (let i = 1; i < list.length; i++) {
      if (list[i]!.offset < list[i - 1]!.end)
        faults.add(list[i]!.path, `its blob overlaps that of ${list[i - 1]!.path}`)
    }
  }
}

/** Everything that is wrong, 1000 faults at most. `layOut`: absent where the manifest's layout is one that this version does not have. */
export function findFaults(manifest: Manifest, layOut: LayOut | undefined): Fault[] {
  const faults = new Faults()
  const own = withoutUnknownTiers(manifest)
  checkNames(own, faults)
  if (layOut) {
    own.layers.forEach((layer, i) => {
      checkParts(own, layer, `layers.${i}`, layOut, faults)
    })
  }
  checkExperts(own, faults)
  return faults.list
}

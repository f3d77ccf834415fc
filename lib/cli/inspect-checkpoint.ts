/** What `tiered-moe inspect` shows of a tiered checkpoint. */
import type { Manifest } from '../checkpoint/index.js'
import { tierTable } from './convert.js'
import { formatBytes, formatPairs, formatTable, printable } from './format.js'
import type { Session } from './session.js'

function layerTable(manifest: Manifest): string {
  const rows = manifest.layers.map(({ layer, blobBytes, gate, up, down, experts }) => {
    const types = [gate, up, down].map(({ type }) => printable(type)).join(' ')
    const inTiers = manifest.tiers.map(({ name }) => String(experts.filter(({ tier }) => tier === name).length))
    const newest = Math.max(0, ...experts.map(({ version }) => version))
    return [String(layer), types, formatBytes(blobBytes), ...inTiers, String(newest)]
  })
  const tiers = manifest.tiers.map(({ name }) => printable(name, 20))
  return formatTable([['layer', 'gate up down', 'expert', ...tiers, 'version'], ...rows])
}

export function showCheckpoint(folder: string, manifest: Manifest, session: Session): void {
  const { model, source, shards } = manifest
  const bytes = shards.reduce((sum, shard) => sum + shard.bytes, 0)
  const base = shards.find(({ kind }) => kind === 'base')
  session.write(`${folder}: tiered checkpoint ${manifest.version}, ${formatBytes(bytes)}, ${shards.length} files\n\n`)
  session.write(
    formatPairs([
      ['name', printable(model.name ?? '(none)')],
      ['architecture', printable(model.architecture)],
      [
        'experts',
        `${model.experts} per layer, ${model.expertsUsed} used; ${model.hidden} wide, for a width of ${model.width}`
      ],
      ['base', base ? formatBytes(base.bytes) : '(none)'],
      ['layout', printable(manifest.layout)],
      ['routing seed', manifest.routing.seed.map((part) => part.toString(16).padStart(8, '0')).join(' ')],
      ['made by', printable(manifest.createdBy)],
      ['made from', `${printable(source.name)}, ${formatBytes(source.bytes)}`],
      ['archive', printable(manifest.archive?.url ?? 'none', 200)],
      ['optimizer', manifest.optimizer ? `${manifest.optimizer.shards.length} files` : 'none']
    ])
  )
  session.write(`\n${tierTable(manifest)}\n${layerTable(manifest)}`)
}

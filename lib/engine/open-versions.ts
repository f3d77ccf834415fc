/** The versions of a model's experts when it has just been loaded: those of its file, and what an earlier load had changed. */
import { mkdtempSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { VERSIONS_FOLDER, writeFailed } from '../checkpoint/folder.js'
import type { Manifest, ManifestExpert } from '../checkpoint/manifest.js'
import { sourceLayers } from '../checkpoint/source.js'
import { createError } from '../errors/index.js'
import type { ExpertPlace, ExpertVersion } from '../experts/history.js'
import { versionFiles } from '../experts/persist.js'
import { ExpertSwaps } from '../experts/swaps.js'
import { ExpertVersions } from '../experts/versions.js'
import type { ExpertBlobs, NativeModel } from '../native.js'
import { isModelFolder, modelFiles } from '../safetensors/model-folder.js'
import { identify, identityOfManifest } from './model-identity.js'
import { journalVersions } from './open-journal.js'
import type { OpenModel } from './open-model.js'
import type { EngineParts } from './parts.js'

type Original = (place: ExpertPlace) => Omit<ExpertVersion, 'epoch'>

export function openVersions(
  { addon, ledger, models, telemetry }: EngineParts,
  model: { id: string; path: string },
  { tensors, description, checkpoint, blobs }: OpenModel,
  native: NativeModel
): ExpertSwaps {
  const { id } = model
  const path = resolve(model.path)
  const entryOf = checkpoint && entriesOf(checkpoint.manifest)
  const original =
    entryOf && blobs ? originals(entryOf, blobs, native.routing.experts) : () => ({ version: 0, blob: undefined })
  const loaded = stateOf(path)
  const { journal } = ledger
  const lasting = checkpoint ? join(path, VERSIONS_FOLDER) : journal && journalVersions(journal)
  const versions = new ExpertVersions({
    native,
    original,
    folder: () => lasting ?? temporaryFolder(),
    temporary: lasting === undefined,
    ...(journal && {
      log: {
        record: (change) => ledger.expertsChanged(id, change),
        epochs: () => ledger.unfinishedEpochs(id),
        flush: () => journal.flush()
      }
    })
  })
  if (checkpoint) versions.keep(versionFiles(path, checkpoint.manifest))
  return new ExpertSwaps({
    id,
    addon,
    path,
    versions,
    layers: sourceLayers(addon, description, tensors),
    experts: native.routing.experts,
    use: () => native.expertUse(),
    isCheckpoint: checkpoint !== undefined,
    checkUnchanged: () => {
      if (stateOf(path) === loaded) return
      throw createError('MODEL_CHANGED', `${path} is another file than the one that was loaded`, { model: id, path })
    },
    sha256Of: (place) => entryOf?.(place).sha256,
    onPersist: async (manifest) => {
      const identity = identityOfManifest(manifest)
      models.persisting(id, identity)
      if (journal) await ledger.persisting(id, await identify(path), identity)
    },
    tell: (event, message, fields) => telemetry.event(event, message, { model: id, ...fields })
  })
}

type EntryOf = (place: ExpertPlace) => ManifestExpert

/** What a checkpoint's manifest states of an expert, of one in the archive too. */
function entriesOf({ layers }: Manifest): EntryOf {
  const entries = new Map(layers.map(({ layer, experts }) => [layer, new Map(experts.map((own) => [own.expert, own]))]))
  return ({ layer, expert }) => entries.get(layer)!.get(expert)!
}

/** What a checkpoint was loaded with; an expert that is in no local file has no blob. */
function originals(entryOf: EntryOf, { files, fileIndex, offset, crc32c }: ExpertBlobs, count: number): Original {
  return (place) => {
    const { sha256, version } = entryOf(place)
    const at = place.layer * count + place.expert
    const path = files[fileIndex[at]!]
    return {
      version,
      blob: path === undefined ? undefined : { path, offset: offset[at]!, crc32c: crc32c[at]!, sha256 }
    }
  }
}

/** Size and time of the last change, of a folder of safetensors files those of each; empty where there is nothing. */
function stateOf(path: string): string {
  const info = statSync(path, { bigint: true, throwIfNoEntry: false })
  if (!info) return ''
  const own = `${info.size} ${info.mtimeNs}`
  return isModelFolder(path) ? [own, ...modelFiles(path).map(stateOf)].join(' ') : own
}

function temporaryFolder(): string {
  const prefix = join(tmpdir(), 'tiered-moe-experts-')
  try {
    return mkdtempSync(prefix)
  } catch (error) {
    throw writeFailed(prefix, error)
  }
}

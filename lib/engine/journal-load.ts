/** Tells the journal of a load: what a later engine needs to load the model again, and to know that it is the same one. */
import { createHash } from 'node:crypto'
import { resolve } from 'node:path'
import { readFailed } from '../errors/index.js'
import type { ExpertVersions } from '../experts/versions.js'
import type { ModelIdentity, ModelRecord } from '../journal/index.js'
import type { NativeModel } from '../native.js'
import type { TierLabels } from '../tiers/model-tiers.js'
import type { Ledger } from './ledger.js'
import { identify } from './model-identity.js'
import type { CheckedLoad } from './options.js'

/**
 * Goes on with the changed experts of an earlier load, where there is one. FILE_READ_FAILED where the file cannot be identified,
 * JOURNAL_WRITE_FAILED, the errors of reading blobs; frees the model then.
 */
export async function journalLoad(
  ledger: Ledger,
  { id: _id, model: _model, ...given }: CheckedLoad,
  load: Pick<ModelRecord, 'id' | 'path' | 'contextLength' | 'routingSeed'>,
  labels: TierLabels,
  native: NativeModel,
  versions: ExpertVersions
): Promise<void> {
  if (!ledger.journal) return
  const { id, path } = load
  // Another process may begin in another folder.
  const { tiers, archive, tierFolders = {} } = given
  const folders = Object.entries(tierFolders).map(([tier, folder]) => [tier, folder && resolve(folder)])
  const options = {
    ...given,
    ...(typeof tiers === 'string' && { tiers: resolve(tiers) }),
    // Secrets are not written down.
    ...(folders.length > 0 && { tierFolders: Object.fromEntries(folders) }),
    ...(archive && { archive: { ...archive, headers: {}, coldFolder: resolve(archive.coldFolder) } })
  }
  try {
    const identity = await identified(path)
    const earlier = ledger.earlierLoad(id, identity)
    await versions.adopt(earlier?.experts ?? [])
    const origin = earlier && { origin: earlier.model.origin ?? earlier.model.identity }
    await ledger.modelLoaded({ ...load, identity, options, tiersSha256: hashOf(labels), ...origin }, earlier?.experts)
  } catch (error) {
    await native.dispose()
    throw error
  }
}

async function identified(path: string): Promise<ModelIdentity> {
  try {
    return await identify(path)
  } catch (cause) {
    throw readFailed(path, cause, `the loaded ${path}`)
  }
}

/** Of what decides a request's mask; where experts are kept changes no bit. */
function hashOf({ tiers, assignment }: TierLabels): string {
  const names = tiers.map(({ name }) => name)
  return createHash('sha256').update(JSON.stringify({ names, assignment })).digest('hex')
}

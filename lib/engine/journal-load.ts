/** Tells the journal of a load: what a later engine needs to load the model again, and to know that it is the same one. */
import type { ExpertVersions } from '../experts/versions.js'
import type { ModelRecord } from '../journal/index.js'
import type { Ledger } from './ledger.js'
import type { LoadIdentity } from './model-identity.js'
import type { CheckedLoad } from './options.js'

/** Goes on with the changed experts of an earlier load, where there is one. JOURNAL_WRITE_FAILED, the errors of reading blobs. */
export async function journalLoad(
  ledger: Ledger,
  { id: _id, model: _model, ...given }: CheckedLoad,
  load: LoadIdentity & Pick<ModelRecord, 'id' | 'path' | 'contextLength' | 'routingSeed'>,
  versions: ExpertVersions
): Promise<void> {
  if (!ledger.journal) return
  const { archive } = given
  // Secrets are not written down.
  const options = { ...given, ...(archive && { archive: { ...archive, headers: {} } }) }
  const earlier = ledger.earlierLoad(load.id, load.identity)
  await versions.adopt(earlier?.experts ?? [])
  const origin = earlier && { origin: earlier.model.origin ?? earlier.model.identity }
  await ledger.modelLoaded({ ...load, options, ...origin }, earlier?.experts)
}

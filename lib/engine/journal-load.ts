/** Tells the journal of a load: what a later engine needs to load the model again, and to know that it is the same one. */
import { createError } from '../errors/index.js'
import type { ModelRecord } from '../journal/index.js'
import type { NativeModel } from '../native.js'
import type { Ledger } from './ledger.js'
import { identify } from './model-identity.js'
import type { CheckedLoad } from './options.js'

/** FILE_READ_FAILED where the file cannot be identified; frees the model then. */
export async function journalLoad(
  ledger: Ledger,
  { id: _id, model: _model, ...options }: CheckedLoad,
  load: Pick<ModelRecord, 'id' | 'path' | 'contextLength' | 'routingSeed'>,
  native: NativeModel
): Promise<void> {
  if (!ledger.journal) return
  const { path } = load
  try {
    ledger.modelLoaded({ ...load, identity: await identify(path), options })
  } catch (cause) {
    await native.dispose()
    const details = { path, errno: cause instanceof Error && 'code' in cause ? cause.code : 'unknown' }
    throw createError('FILE_READ_FAILED', `${path} could not be read again after it was loaded`, details, { cause })
  }
}

/** Requests that a worker may be told again much later: with absolute paths, whatever the working directory is then. */
import { resolve } from 'node:path'
import { swapSchema } from '../engine/calls.js'
import type { ExpandRequest } from '../engine/expand.js'
import { expandSchema } from '../engine/expand.js'
import { checkLoad } from '../engine/load-model.js'
import type { CheckedLoad, LoadModelRequest } from '../engine/options.js'
import type { CheckedChange, ExpertChange } from '../experts/changes.js'
import { locateModel } from '../model/embedded.js'
import { packageRoot } from '../native.js'
import { validated } from '../schemas.js'

/** `id`: what the model gets where the request does not say. VALIDATION_ERROR. */
export function lastingLoad(
  method: string,
  given: LoadModelRequest
): { request: CheckedLoad & { model: string }; id: string } {
  const checked = checkLoad(method, given)
  const { id, path } = locateModel(packageRoot(), checked.model)
  return { request: { ...checked, model: path }, id }
}

/** VALIDATION_ERROR. */
export function lastingExpansion(given: ExpandRequest): ExpandRequest {
  const checked = validated(expandSchema, given, 'expand')
  return { ...checked, from: resolve(checked.from) } as ExpandRequest
}

/** VALIDATION_ERROR. */
export function lastingChanges(model: string, given: readonly ExpertChange[]): CheckedChange[] {
  const { changes } = validated(swapSchema, { model, changes: given }, 'swapExperts')
  return changes.map((change) => {
    if (change.action !== 'replace') return change
    const { from, blob } = change
    return {
      ...change,
      ...(from !== undefined && { from: resolve(from) }),
      ...(blob !== undefined && { blob: resolve(blob) })
    }
  })
}

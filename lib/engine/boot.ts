/** Starts an engine: its options are checked, its threads are started. */
import { availableParallelism } from 'node:os'
import { createError } from '../errors/index.js'
import { Lifecycle } from '../lifecycle.js'
import { native } from '../native.js'
import { validated } from '../validation.js'
import { Models } from './models.js'
import type { EngineOptions } from './options.js'
import { engineSchema } from './options.js'
import type { EngineParts } from './parts.js'

/** Throws VALIDATION_ERROR, BACKEND_UNAVAILABLE, ISA_UNSUPPORTED, ADDON_UNAVAILABLE, RESOURCE_MEMORY_EXHAUSTED. */
export async function boot(given: EngineOptions): Promise<EngineParts> {
  const options = validated(engineSchema, given, 'createEngine')
  if (options.backend !== 'cpu') {
    throw createError('BACKEND_UNAVAILABLE', `the backend ${options.backend} is not part of this version`, {
      backend: options.backend,
      available: ['cpu']
    })
  }
  const lifecycle = new Lifecycle(options.onTransition)
  const addon = native()
  const backend = addon.createBackend({ threads: options.threads ?? availableParallelism(), isa: options.isa })
  lifecycle.to('warm', 'backend ready')
  return { options, lifecycle, addon, backend, models: new Models() }
}

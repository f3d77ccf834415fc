import { boot } from './engine/boot.js'
import { LocalEngine } from './engine/local-engine.js'
import type { EngineOptions } from './engine/options.js'
import type { Engine } from './engine.js'
import type { CallOptions } from './generation/options.js'
import { openWorkers } from './isolation/open-workers.js'
import { isolationSettings } from './isolation/settings.js'
import { reading } from './validation.js'

/**
 * Starts an engine: its threads, on the instruction set asked for. VALIDATION_ERROR, BACKEND_UNAVAILABLE {backend, available},
 * CUDA_DEVICE_FAILED (backend `cuda`: no addon for it, no driver or no device; the message says what to install),
 * ISA_UNSUPPORTED {isa, available}, ADDON_UNAVAILABLE {tried}, RESOURCE_MEMORY_EXHAUSTED, AUDIT_LOG_INVALID {path, line, reason},
 * FILE_WRITE_FAILED of the audit log, CANCELLED. With a journal: JOURNAL_LOCKED, JOURNAL_CORRUPTED, JOURNAL_VERSION_UNSUPPORTED,
 * JOURNAL_WRITE_FAILED, FILE_READ_FAILED, FILE_WRITE_FAILED. With isolation: WORKER_BINARY_NOT_FOUND, WORKER_SPAWN_FAILED, WORKER_INIT_CRASHED,
 * WORKER_START_TIMEOUT.
 */
export async function createEngine(options: EngineOptions = {}, call: CallOptions = {}): Promise<Engine> {
  const { isolation, rest } = reading('createEngine', () => withoutIsolation(options))
  const settings = isolationSettings(isolation)
  if (settings) return openWorkers(rest, settings, call)
  const parts = await boot(rest, call)
  const engine = new LocalEngine(parts)
  const { journal } = parts.options
  if (typeof journal === 'object' && journal.recover === 'load') await engine.restore()
  return engine
}

/** Where an engine runs is settled before it is made. */
function withoutIsolation(options: EngineOptions): { isolation: EngineOptions['isolation']; rest: EngineOptions } {
  if (typeof options !== 'object' || options === null || !('isolation' in options)) {
    return { isolation: undefined, rest: options }
  }
  const { isolation, ...rest } = options
  return { isolation, rest }
}

import { boot } from './engine/boot.js'
import type { EngineOptions } from './engine/options.js'
import { Engine } from './engine.js'
import type { CallOptions } from './generation/options.js'

/**
 * Starts an engine: its threads, on the instruction set asked for. VALIDATION_ERROR, BACKEND_UNAVAILABLE {backend, available},
 * CUDA_DEVICE_FAILED (backend `cuda`: no addon for it, no driver or no device; the message says what to install),
 * ISA_UNSUPPORTED {isa, available}, ADDON_UNAVAILABLE {tried}, RESOURCE_MEMORY_EXHAUSTED, AUDIT_LOG_INVALID {path, line, reason},
 * FILE_WRITE_FAILED of the audit log, CANCELLED. With a journal: JOURNAL_LOCKED, JOURNAL_CORRUPTED, JOURNAL_VERSION_UNSUPPORTED,
 * JOURNAL_WRITE_FAILED, FILE_READ_FAILED, FILE_WRITE_FAILED.
 */
export async function createEngine(options: EngineOptions = {}, call: CallOptions = {}): Promise<Engine> {
  const parts = await boot(options, call)
  const engine = new Engine(parts)
  const { journal } = parts.options
  if (typeof journal === 'object' && journal.recover === 'load') await engine.restore()
  return engine
}

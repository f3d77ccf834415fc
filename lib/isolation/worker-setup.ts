/** What each worker of an engine begins with: the engine's options without functions, a share of its memory, a journal and an audit log of its own. */
import { availableParallelism } from 'node:os'
import { extname, join, resolve } from 'node:path'
import type { CheckedOptions, EngineOptions, JournalOptions } from '../engine/options.js'
import { byteSize, reading } from '../validation.js'
import type { InitializeParams, WorkerOptions } from './protocol.js'
import type { IsolationSettings } from './settings.js'

export class WorkerSetup {
  readonly #options: WorkerOptions
  readonly #hooks: InitializeParams['hooks']
  readonly #settings: IsolationSettings
  readonly #journal: JournalOptions | undefined
  /** Folder of journals that end with the engine. */
  readonly #folder: string | undefined
  readonly #audit: { path: string; syncMs?: number } | undefined

  /** `folder`: for journals, where the options name none and streams are to go on. */
  constructor(
    given: EngineOptions,
    { journal, audit, memory, threads }: CheckedOptions,
    settings: IsolationSettings,
    folder?: string
  ) {
    const { onTransition: _, onPhase, logger, onEvent, onError, ...rest } = given
    const { isolation: __, journal: ___, audit: ____, signals: _____, ...plain } = rest
    const { workers } = settings
    const copy = reading('createEngine', () => structuredClone(plain)) as WorkerOptions
    const { staging } = copy
    this.#options = {
      ...copy,
      ...(staging && { staging: { ...staging, folder: resolve(staging.folder) } }),
      ...(memory !== undefined && { memory: Math.max(1, Math.floor(byteSize(memory) / workers)) }),
      ...(threads === undefined &&
        workers > 1 && { threads: Math.max(1, Math.floor(availableParallelism() / workers)) }),
      // Its API would be another process's.
      telemetry: { ...copy.telemetry, openTelemetry: false }
    }
    this.#hooks = { logger: !!logger, onEvent: !!onEvent, onError: !!onError, onPhase: !!onPhase }
    this.#settings = settings
    this.#journal = absolute(journal as JournalOptions | string | undefined)
    this.#folder = folder
    this.#audit = absolute(audit as { path: string; syncMs?: number } | string | undefined)
  }

  /** Whether somebody asked for a journal. */
  get journaled(): boolean {
    return this.#journal !== undefined
  }

  /** Whether workers have one, asked for or not. */
  get hasJournal(): boolean {
    return this.journaled || this.#folder !== undefined
  }

  parameters(index: number): InitializeParams {
    const folder = this.#journal?.path ?? this.#folder
    // Models come back by what the engine was told, with what no journal may hold (the headers of an archive).
    const journal = folder && { ...this.#journal, path: join(folder, `worker-${index}`), recover: 'demand' as const }
    const audit = this.#audit && { ...this.#audit, path: this.audit(index)! }
    return {
      options: { ...this.#options, ...(audit && { audit }) },
      journal: journal || undefined,
      ephemeral: !this.#journal,
      hooks: this.#hooks,
      heartbeatMs: this.#settings.heartbeatMs
    }
  }

  /** The audit log of a worker: of several each has its own. */
  audit(index: number): string | undefined {
    if (!this.#audit) return undefined
    const { path } = this.#audit
    if (this.#settings.workers === 1) return path
    const end = extname(path)
    return `${path.slice(0, path.length - end.length)}-worker-${index}${end}`
  }

  /** Whether the models of the journals are loaded at the start. */
  get restores(): boolean {
    return this.#journal?.recover === 'load'
  }
}

/** A file or folder as it is now, for processes that are started later. */
function absolute<Options extends { path: string }>(given: string | Options | undefined) {
  if (given === undefined) return undefined
  return typeof given === 'string' ? { path: resolve(given) } : { ...given, path: resolve(given.path) }
}

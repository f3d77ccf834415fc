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
    this.#options = {
      ...copy,
      ...(memory !== undefined && { memory: Math.max(1, Math.floor(byteSize(memory) / workers)) }),
      ...(threads === undefined &&
        workers > 1 && { threads: Math.max(1, Math.floor(availableParallelism() / workers)) }),
      // Its API would be another process's.
      telemetry: { ...copy.telemetry, openTelemetry: false }
    }
    this.#hooks = { logger: !!logger, onEvent: !!onEvent, onError: !!onError, onPhase: !!onPhase }
    this.#settings = settings
    this.#journal = typeof journal === 'string' ? { path: journal } : (journal as JournalOptions | undefined)
    this.#folder = folder
    this.#audit = typeof audit === 'string' ? { path: audit } : (audit as { path: string; syncMs?: number } | undefined)
  }

  /** Whether somebody asked for a journal. */
  get journaled(): boolean {
    return this.#journal !== undefined
  }

  /** Whether requests of a process that died can go on in the next one. */
  get resumes(): boolean {
    return this.#settings.onCrash === 'resume'
  }

  parameters(index: number, keep: string[]): InitializeParams {
    const folder = this.#journal ? resolve(this.#journal.path) : this.#folder
    // Models come back by what the engine was told, with what no journal may hold (the headers of an archive).
    const journal = folder && { ...this.#journal, path: join(folder, `worker-${index}`), recover: 'demand' as const }
    const audit = this.#audit && { ...this.#audit, path: this.audit(index)! }
    return {
      options: { ...this.#options, ...(audit && { audit }) },
      journal: journal || undefined,
      ephemeral: !this.#journal,
      keep,
      hooks: this.#hooks,
      heartbeatMs: this.#settings.heartbeatMs
    }
  }

  /** The audit log of a worker: of several each has its own. */
  audit(index: number): string | undefined {
    if (!this.#audit) return undefined
    const path = resolve(this.#audit.path)
    if (this.#settings.workers === 1) return path
    const end = extname(path)
    return `${path.slice(0, path.length - end.length)}-worker-${index}${end}`
  }

  /** Whether the models of the journals are loaded at the start. */
  get restores(): boolean {
    return this.#journal?.recover === 'load'
  }
}

/** Starts an engine in the steps of S002: configuration, resources, routing seed, telemetry. The fifth, model, is each load. */
import { createError } from '../errors/index.js'
import type { CallOptions } from '../generation/options.js'
import { checkCall } from '../generation/options.js'
import type { Journal } from '../journal/index.js'
import { Lifecycle, transitions } from '../lifecycle.js'
import type { NativeAddon, NativeBackend } from '../native.js'
import { cudaNative, native, packageVersion } from '../native.js'
import { validated } from '../schemas.js'
import { AuditLog } from '../telemetry/audit-log.js'
import { Telemetry } from '../telemetry/telemetry.js'
import { Ledger } from './ledger.js'
import { Models } from './models.js'
import { checkGpuSettings, openEngineBackend } from './open-backend.js'
import { openJournal } from './open-journal.js'
import type { CheckedOptions, EngineOptions } from './options.js'
import { engineSchema } from './options.js'
import type { EngineParts, ShutdownHooks } from './parts.js'
import type { PhaseEvent } from './phases.js'
import { Phases, reportPhases } from './phases.js'
import { Requests } from './requests.js'
import { checkStaging, MemoryReserve } from './reserve.js'
import { routingSeed } from './routing-seed.js'
import { checkTimeouts } from './timeouts.js'
import { watchEngine } from './watch.js'

/** Throws VALIDATION_ERROR, BACKEND_UNAVAILABLE, CUDA_DEVICE_FAILED, GPU_ADAPTER_UNAVAILABLE, GPU_LIMIT_EXCEEDED, ISA_UNSUPPORTED, ADDON_UNAVAILABLE, RESOURCE_MEMORY_EXHAUSTED, AUDIT_LOG_INVALID, CANCELLED, and what opening a journal throws. */
export async function boot(given: EngineOptions, call: CallOptions): Promise<EngineParts> {
  // Nobody to tell is known before the options have been read.
  const early: PhaseEvent[] = []
  let report = (event: PhaseEvent): void => {
    early.push(event)
  }
  const { signal } = checkCall('createEngine', call)
  const phases = new Phases(
    (event) => report(event),
    () => {
      if (signal?.aborted) {
        const details = { method: 'createEngine' }
        throw createError('CANCELLED', 'createEngine: the caller aborted', details, { cause: signal.reason })
      }
    }
  )
  const options = await phases.run('configuration', () => configuration(given))
  const telemetry = new Telemetry({ ...options.telemetry, ...hooksOf(options) })
  report = reportPhases('boot_phase', telemetry, options.onPhase)
  for (const event of early) report(event)
  const lifecycle = followedLifecycle(telemetry, options.onTransition)
  const models = new Models()
  let held: Resources | undefined
  try {
    const addon = options.backend === 'cuda' ? cudaNative() : native()
    // Assigned inside the step: one that is cancelled after it has to give back what it made.
    await phases.run('resources', async () => {
      held = await resources(options, addon)
    })
    const { backend, reserve, journal } = held!
    const seed = await phases.run('routing-seed', () =>
      routingSeed(options.routingSeed, journal?.recovered.routingSeed)
    )
    await phases.run('telemetry', async () => {
      watchCounters(telemetry, addon, models)
      const audit = await openAudit(telemetry, options, addon, {
        isa: backend.isa,
        threads: backend.threads,
        ...(backend.memory && { backend: options.backend, device: backend.memory.device })
      })
      await telemetry.start(audit)
    })
    telemetry.event('routing_seed', `the routing seed is ${seed.text}`, { seed: seed.text, source: seed.source })
    telemetry.open()
    if (journal) tellOfJournal(telemetry, journal)
    journal?.started({ version: packageVersion(), node: process.version, routingSeed: seed.text })
    lifecycle.to('warm', 'backend ready')
    const requests = new Requests(telemetry, options.telemetry.logPrompts)
    const hooks: ShutdownHooks = { flush: [], release: [] }
    if (journal) {
      hooks.flush.push(() => journal.flush())
      hooks.release.push(() => journal.close())
    }
    const ledger = new Ledger(journal)
    const stopWatch = watchEngine(options, addon, models, telemetry)
    hooks.release.push(stopWatch)
    const shared = { options, lifecycle, addon, backend, models, reserve, ledger, requests, telemetry, hooks }
    return { ...shared, routingSeed: seed }
  } catch (error) {
    await held?.journal?.close()
    held?.backend.dispose()
    held?.reserve.dispose()
    await telemetry.close()
    throw error
  }
}

function tellOfJournal(telemetry: Telemetry, { recovered, path }: Journal): void {
  const { requests, models, cut, damage } = recovered
  const counts = { requests: requests.length, models: models.length, damaged: damage.length }
  telemetry.event('journal_opened', `the journal holds ${requests.length} requests`, { path, ...counts })
  if (cut) telemetry.event('journal_cut', `${cut.bytes} bytes were cut off the journal`, { ...cut })
}

interface Resources {
  backend: NativeBackend
  reserve: MemoryReserve
  journal: Journal | undefined
}

/** Room on the machine is reserved, or looked for, before anything is taken of it. */
async function resources(options: CheckedOptions, addon: NativeAddon): Promise<Resources> {
  const { journal, memory, staging } = options
  const reserve = new MemoryReserve(memory, addon)
  let backend: NativeBackend | undefined
  try {
    if (staging) await checkStaging(staging)
    backend = await openEngineBackend(options, addon)
    return { backend, reserve, journal: await openJournal(journal, addon) }
  } catch (error) {
    backend?.dispose()
    reserve.dispose()
    throw error
  }
}

function configuration(given: EngineOptions): CheckedOptions {
  const options = validated(engineSchema, given, 'createEngine')
  checkTimeouts(options.timeouts)
  checkGpuSettings(options)
  return options
}

const hooksOf = ({ logger, onEvent, onError }: CheckedOptions) => ({ logger, onEvent, onError })

/** A lifecycle whose transitions are told before the caller's own listener hears of them. */
function followedLifecycle(telemetry: Telemetry, onTransition: EngineOptions['onTransition']): Lifecycle {
  const { metrics } = telemetry
  return new Lifecycle((transition) => {
    const { previous: from, next: to, reason } = transition
    for (const state of Object.keys(transitions)) metrics.state.set(state === to ? 1 : 0, { state })
    metrics.transitions.add(1, { state: to })
    telemetry.event('engine_state', `the engine is ${to}: ${reason}`, { from, to, reason })
    onTransition?.(transition)
  })
}

/** What is counted elsewhere, taken over whenever metrics are read. */
function watchCounters({ metrics }: Telemetry, addon: NativeAddon, models: Models): void {
  metrics.addSource(() => {
    const { liveBytes, openFiles, activeJobs } = addon.counters()
    metrics.liveBytes.set(liveBytes)
    metrics.openFiles.set(openFiles)
    metrics.activeJobs.set(activeJobs)
    for (const model of models.all()) {
      const { id, experts, prefixCache } = model.stats()
      if (experts) metrics.setExperts(id, experts)
      if (prefixCache) metrics.setPrefixes(id, prefixCache)
    }
  })
}

/** The audit log, where one is asked for. How the engine computes stands beside the chain: it changes no result. */
async function openAudit(
  telemetry: Telemetry,
  { audit, maxBatchTokens }: CheckedOptions,
  addon: NativeAddon,
  machine: Readonly<Record<string, unknown>>
): Promise<AuditLog | undefined> {
  if (audit === undefined) return undefined
  const { path, syncMs } = typeof audit === 'string' ? { path: audit, syncMs: undefined } : audit
  return AuditLog.open({
    path,
    ...(syncMs !== undefined && { syncMs }),
    run: { version: packageVersion(), maxBatchTokens },
    machine,
    tryLock: (descriptor) => addon.tryLockFile(descriptor),
    onFailure: (error) => telemetry.error(error, { method: 'audit' }),
    onRecord: (outcome) => telemetry.metrics.auditRecords.add(1, { outcome })
  })
}

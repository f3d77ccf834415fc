/** Starts an engine in processes of its own. */
import { resolve } from 'node:path'
import { notLoadedError } from '../engine/models.js'
import type { EngineOptions } from '../engine/options.js'
import { engineSchema, journalSchema } from '../engine/options.js'
import { disposedError, frozenError } from '../engine/parts.js'
import { nothing } from '../engine/resume.js'
import { checkTimeouts, requestDeadlines } from '../engine/timeouts.js'
import { createError, isEngineError } from '../errors/index.js'
import type { CallOptions } from '../generation/options.js'
import { checkCall } from '../generation/options.js'
import type { Recovered } from '../journal/index.js'
import { baseDelays } from '../resilience/backoff.js'
import { profiles } from '../resilience/profiles.js'
import { retryTold } from '../resilience/retry-told.js'
import { validated } from '../schemas.js'
import { Telemetry } from '../telemetry/telemetry.js'
import { defaultCrashFolder } from './crash-record.js'
import type { HistoryEntry } from './history.js'
import { History } from './history.js'
import { listenFor } from './hooks.js'
import { KeepAlive } from './keep-alive.js'
import { Pool } from './pool.js'
import type { InitializeResult } from './protocol.js'
import { RemoteCalls } from './remote-calls.js'
import { RemoteEngine } from './remote-engine.js'
import { RemoteState } from './remote-state.js'
import { RemoteRequests } from './requests.js'
import type { IsolationSettings } from './settings.js'
import type { Supervision } from './supervisor.js'
import { Worker } from './supervisor.js'
import { TempFolder } from './temp-folders.js'
import { isFromWorker } from './values.js'
import { WorkerSetup } from './worker-setup.js'

/** WORKER_BINARY_NOT_FOUND, WORKER_SPAWN_FAILED, WORKER_INIT_CRASHED, WORKER_START_TIMEOUT, and what createEngine throws. */
export async function openWorkers(
  given: EngineOptions,
  settings: IsolationSettings,
  call: CallOptions
): Promise<RemoteEngine> {
  const options = validated(engineSchema, given, 'createEngine')
  checkTimeouts(options.timeouts)
  const { signal } = checkCall('createEngine', call)
  const { logger, onEvent, onError } = options
  const telemetry = new Telemetry({ ...options.telemetry, logger, onEvent, onError })
  await telemetry.start()
  telemetry.open()
  let workers: Worker[] = []
  const needsFolder = settings.onCrash === 'resume' && options.journal === undefined
  const destroy = (): void => {
    for (const worker of workers) worker.destroy()
  }
  let folder: TempFolder | undefined
  const cancelled = () =>
    createError('CANCELLED', 'createEngine: the caller aborted', { method: 'createEngine' }, { cause: signal?.reason })
  const onAbort = (): void => {
    for (const worker of workers) worker.kill()
  }
  try {
    folder = needsFolder ? await TempFolder.make(destroy) : undefined
    const setup = new WorkerSetup(given, options, settings, folder?.path)
    const history = new History()
    const { cleanupMs } = requestDeadlines(options.timeouts)
    const keepAlive = new KeepAlive()
    const supervision: Supervision = {
      settings,
      telemetry,
      crashFolder: resolve(settings.crashFolder ?? defaultCrashFolder()),
      cleanupMs,
      parameters: (index) => setup.parameters(index),
      audit: (index) => setup.audit(index),
      listen: (rpc, heard) => listenFor(rpc, options, heard),
      reconcile: async (worker) => {
        const told = new Set<HistoryEntry>()
        // One at a time: what is noted meanwhile counts too.
        const next = () => history.entries(setup.hasJournal).find((entry) => !told.has(entry))
        for (let entry = next(); entry; entry = next()) {
          const { method, model, args } = entry
          told.add(entry)
          const failed = (error: unknown) => telemetry.error(error, { method })
          await worker.call(`engine.${method}`, args).catch(failed)
          const circuit = method === 'loadModel' && worker.circuitOf(model)
          if (circuit) await worker.call('archive.restoreCircuit', { model, circuit }).catch(failed)
        }
      },
      resumed: (worker) => {
        if (state.frozen) void worker.call('engine.freeze', [state.frozen.options]).catch(() => {})
      },
      changed: (reason) => state.refresh(reason)
    }
    workers = Array.from({ length: settings.workers }, (_, index) => new Worker(index, supervision))
    const pool = new Pool(workers)
    const state = new RemoteState(pool, telemetry, options.onTransition)
    const { journal } = options
    const kept = typeof journal === 'string' ? journalSchema.parse({ path: journal }) : journal
    const owners = setup.journaled ? new Map<string, Worker>() : undefined
    return await keepAlive.during(async () => {
      if (signal?.aborted) throw cancelled()
      signal?.addEventListener('abort', onAbort, { once: true })
      const started = await startAll(workers)
      if (signal?.aborted) throw cancelled()
      const recovered = recoveredOf(started)
      for (const [i, result] of started.entries()) {
        for (const { requestId } of result.recovered.requests) owners?.set(requestId, workers[i]!)
      }
      const calls = new RemoteCalls(pool, keepAlive, cleanupMs, (method, event) => {
        const { message, fields } = retryTold(event, baseDelays(profiles.rpc.retry))
        telemetry.event('retry_backoff', message, { method, target: 'worker', ...fields })
      })
      const requests = new RemoteRequests({
        pool,
        keepAlive,
        most: settings.streams.maxActive * settings.workers,
        timeoutMs: options.timeouts.requestMs ?? settings.streams.defaultTimeoutMs,
        check: (method) => {
          state.checkOpen(method)
          if (state.frozen) throw frozenError(method, state.frozen.retryAfterSeconds)
        },
        checkModel: (model) => {
          const ids = state.models.map(({ info }) => info.id)
          if (!ids.includes(model)) throw notLoadedError(model, 'is not loaded', ids)
        },
        tell: (error, method) => (isFromWorker(error) ? error : telemetry.error(error, { method })),
        owners,
        retentionMs: kept?.retentionMs ?? 0
      })
      if (setup.restores) await restore(workers, recovered, history)
      return new RemoteEngine({
        options,
        telemetry,
        pool,
        calls,
        requests,
        state,
        history,
        recovered,
        owners,
        folder,
        keepAlive
      })
    })
  } catch (error) {
    await Promise.all(workers.map((worker) => worker.stop(disposedError('createEngine'))))
    await folder?.remove()
    const reason = signal?.aborted ? cancelled() : error
    if (!isFromWorker(reason)) telemetry.error(reason, { method: 'createEngine' })
    await telemetry.close()
    throw reason
  } finally {
    signal?.removeEventListener('abort', onAbort)
  }
}

async function startAll(workers: readonly Worker[]): Promise<InitializeResult[]> {
  const results = await Promise.allSettled(workers.map((worker) => worker.start()))
  for (const result of results) if (result.status === 'rejected') throw result.reason
  return results.map((result) => (result as PromiseFulfilledResult<InitializeResult>).value)
}

/** What the workers' journals held, as one. */
function recoveredOf(started: readonly InitializeResult[]): Recovered {
  const all = started.map(({ recovered }) => recovered)
  const models = new Map(all.flatMap(({ models }) => models.map((model) => [model.id, model] as const)))
  return {
    ...nothing,
    ...all[0],
    requests: all.flatMap(({ requests }) => requests),
    models: [...models.values()],
    damage: all.flatMap(({ damage }) => damage)
  }
}

/** Loads what was loaded when the engine before this one ended; what cannot be loaded has its `error` in `recovered`. */
async function restore(workers: readonly Worker[], recovered: Recovered, history: History): Promise<void> {
  const restored = (await Promise.all(workers.map((worker) => worker.call('engine.restore', {})))) as Recovered[]
  recovered.models = recoveredOf(restored.map((own) => ({ recovered: own }) as InitializeResult)).models
  for (const model of recovered.models) {
    const { id, path, options } = model
    const request = { ...options, model: path, id }
    const has = (own: Recovered) => own.models.some((other) => other.id === id && !other.error)
    // There are more workers than there were: the journals of the others know nothing.
    const others = workers.filter((_, i) => !has(restored[i]!))
    if (others.length === workers.length) continue
    try {
      await Promise.all(others.map((worker) => worker.call('engine.loadModel', [request, {}])))
      delete model.error
      history.note('loadModel', id, request, {})
    } catch (error) {
      // Better nowhere than in some.
      await Promise.allSettled(workers.map((worker) => worker.call('engine.unloadModel', [id])))
      if (!isEngineError(error)) throw error
      model.error = error
    }
  }
}

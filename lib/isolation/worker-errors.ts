/** What the death of a worker is to those who waited for it. */
import type { EngineError, ErrorDetails } from '../errors/index.js'
import { createError, errorOf, isEngineError } from '../errors/index.js'
import type { WorkerCrash } from './worker-info.js'
import type { Death } from './worker-process.js'

/** Of one that was killed for a fault, the fault says it. */
const howOf = ({ signal, exitCode, reason, outOfMemory }: WorkerCrash): string => {
  if (outOfMemory) return 'was killed by the kernel for its memory'
  if (reason === 'unresponsive') return 'gave no sign of life and was killed'
  if (reason === 'closed') return 'was killed, because its engine closed: it could not recover'
  if (reason === 'killed') return 'was killed, because it did not end what it was told to end'
  return signal ? `ended by ${signal}` : `ended with exit code ${exitCode}`
}

/** `served`: it was ready. WORKER_PROTOCOL_ERROR, RUNTIME_STEP_STUCK, WORKER_OUT_OF_MEMORY, WORKER_INIT_CRASHED or WORKER_CRASHED {pid, exitCode, signal, reason, crashRecord}. */
export function deathError(worker: number, death: Death, crash: WorkerCrash, served: boolean): EngineError {
  const { pid, exitCode, signal, reason, crashRecord } = crash
  const details: ErrorDetails = { worker, pid, exitCode, signal, reason, crashRecord }
  const { fault, stderr } = death
  if (fault) return errorOf(fault.code, fault.message, { ...details, ...fault.details }, { cause: fault })
  const text = `worker ${worker} (process ${pid}) ${howOf(crash)}`
  if (crash.outOfMemory) return createError('WORKER_OUT_OF_MEMORY', text, details)
  if (served) return createError('WORKER_CRASHED', text, details)
  return createError('WORKER_INIT_CRASHED', `${text} before it was ready`, { ...details, stderr })
}

/** What a process is at fault for, and no caller: that it died, or gave no answer. */
export const isOfProcess = (error: unknown): boolean =>
  isEngineError(error) && (error.code.startsWith('WORKER_') || error.code === 'CALL_TIMEOUT')

export function exhaustedError(worker: number, attempts: number, crash: WorkerCrash | null, cause: unknown) {
  const text = `worker ${worker} ended again and again; it was started ${attempts} times more, and is given up`
  const { exitCode: lastExitCode = null, signal = null, crashRecord = null } = crash ?? {}
  const details = { worker, attempts, lastExitCode, signal, crashRecord }
  return createError('WORKER_RESTARTS_EXHAUSTED', text, details, { cause })
}

/** How an engine is kept in processes of its own, checked at the border. */
import { z } from 'zod'
import { validated } from '../schemas.js'
import { describeValue, reading, refusal } from '../validation.js'

export interface IsolationOptions {
  mode: 'process'
  /** Worker processes, each with the models and a share of the engine's memory. Default 1. */
  workers?: number
  /** Streams of a worker that died: go on with the same tokens in the next one (default), or end with WORKER_CRASHED and their partial text. */
  onCrash?: 'resume' | 'fail'
  /** Starts of a worker that died, one after another, before it is given up. Default 3. */
  maxRestarts?: number
  /** Milliseconds before the first of them; doubled for each further one, a quarter more or less. Default 1000. */
  restartDelayBaseMs?: number
  /** Milliseconds that it grows to at most. Default 30000. */
  restartDelayMaxMs?: number
  /** Milliseconds of service after which earlier deaths no longer count. Default 60000. */
  stableMs?: number
  /** Milliseconds that a worker may take until it answers; loading models does not count. Default 30000. */
  startTimeoutMs?: number
  /** A step that gets nowhere for guards.stepMs: the worker is killed and started again (default), or 'wait': the requests that wait for it end, and the worker goes on when it does. */
  onStuckStep?: 'restart' | 'wait'
  /** Milliseconds between signs of life. Default 500. */
  heartbeatMs?: number
  /** Milliseconds without one after which a worker is killed. Default 5000. */
  heartbeatTimeoutMs?: number
  /** Folder of the records of deaths, the last 20. Default: a folder of this user's beside the system's temporary files. */
  crashFolder?: string
  /** Options of Node for the workers. Default: none. */
  execArgv?: string[]
  /** Variables for the workers, beside those of this process. */
  env?: Record<string, string>
  streams?: StreamLimits
}

export interface StreamLimits {
  /** Streams of one worker at a time; one more is SERVICE_UNAVAILABLE. Default 10. */
  maxActive?: number
  /** Milliseconds that a stream may take which no other deadline bounds. Default 300000. */
  defaultTimeoutMs?: number
}

export type Isolation = 'none' | 'process' | IsolationOptions

const longestTimer = 2 ** 31 - 1
const count = (least: number, most: number) => z.number().int().min(least).max(most)
const milliseconds = (least: number) =>
  z.number().min(least).max(longestTimer).describe(`a number of milliseconds from ${least} to ${longestTimer}`)

export const streamsSchema = z.strictObject({
  maxActive: count(1, 100_000).default(10).describe('an integer from 1 to 100000'),
  defaultTimeoutMs: milliseconds(1).default(300_000)
})

export const isolationSchema = z.strictObject({
  mode: z.literal('process').describe('process'),
  workers: count(1, 64).default(1).describe('an integer from 1 to 64'),
  onCrash: z.enum(['resume', 'fail']).default('resume').describe('resume or fail'),
  maxRestarts: count(0, 1000).default(3).describe('an integer from 0 to 1000'),
  restartDelayBaseMs: milliseconds(0).default(1000),
  restartDelayMaxMs: milliseconds(0).default(30_000),
  stableMs: milliseconds(0).default(60_000),
  startTimeoutMs: milliseconds(1).default(30_000),
  onStuckStep: z.enum(['restart', 'wait']).default('restart').describe('restart or wait'),
  heartbeatMs: milliseconds(1).default(500),
  heartbeatTimeoutMs: milliseconds(1).default(5000),
  crashFolder: z.string().min(1).optional().describe('the path of a folder'),
  execArgv: z.array(z.string()).default([]).describe('a list of texts'),
  env: z.record(z.string(), z.string()).default({}).describe('names of variables, each with a text'),
  streams: streamsSchema.prefault({}).describe('{maxActive, defaultTimeoutMs}')
})

/** Throws VALIDATION_ERROR where a worker would be killed between two signs of life. */
export function checkHeartbeat({
  heartbeatMs,
  heartbeatTimeoutMs
}: {
  heartbeatMs: number
  heartbeatTimeoutMs: number
}) {
  if (heartbeatMs < heartbeatTimeoutMs) return
  const allowed = `less than ${heartbeatTimeoutMs}, after which a worker is killed`
  throw refusal('isolation', 'heartbeatMs', String(heartbeatMs), allowed)
}

export type IsolationSettings = z.output<typeof isolationSchema>

/** What `createEngine` was given; undefined where the engine stays in this process. Throws VALIDATION_ERROR. */
export function isolationSettings(given: unknown): IsolationSettings | undefined {
  if (given === undefined || given === 'none') return undefined
  const allowed = `none, process, or {${Object.keys(isolationSchema.shape).join(', ')}}`
  if (given !== 'process' && typeof given !== 'object') {
    throw refusal('createEngine', 'isolation', describeValue(given), allowed)
  }
  const settings = validated(isolationSchema, given === 'process' ? { mode: 'process' } : given, 'isolation')
  checkHeartbeat(settings)
  return reading('createEngine', () => structuredClone(settings))
}

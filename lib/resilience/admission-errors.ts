/** How requests are refused: what there is too little of, and when to come again. */
import type { EngineError, ResourceInfo } from '../errors/index.js'
import { createError } from '../errors/index.js'
import { withoutStack } from '../errors/without-stack.js'

/** Of SERVICE_UNAVAILABLE: what the server as a whole has too little of. */
export type UnavailableReason =
  | 'queue_full'
  | 'queue_wait'
  | 'concurrency'
  | 'tokens'
  | 'memory'
  | 'deadline'
  | 'draining'
  | 'loading'
  | 'streams'
  | 'workers'

/** Of RATE_LIMITED: what one client has had enough of. */
export type RateLimitedReason = 'client_rate' | 'client_tokens' | 'client_concurrency'

export interface Capacity {
  required: number
  available: number
  current: number
  limit: number
}

/** Seconds: the least and the most that a client is told to wait, and what it is told where nobody knows. Source: SEEDS 1.7. */
const leastWait = 1
const mostWait = 60
const unknownWait = 30

const waitOf = (seconds: number | undefined): number =>
  seconds === undefined ? unknownWait : Math.min(mostWait, Math.max(leastWait, seconds))

const texts: Readonly<Record<UnavailableReason | RateLimitedReason, string>> = {
  queue_full: 'the queue is full',
  queue_wait: 'it has waited for as long as a request may',
  concurrency: 'as many requests run as may',
  tokens: 'the requests that run have as many tokens as may be in flight',
  memory: 'there is not enough memory for its sequence',
  deadline: 'it would not end within its deadline',
  draining: 'the server is shutting down',
  loading: 'its model is still being loaded',
  streams: 'as many streams are open as may be',
  workers: 'no worker takes one now',
  client_rate: 'as many requests came in a minute as may',
  client_tokens: 'as many tokens were used in a minute as may be',
  client_concurrency: 'as many requests of it run and wait as may'
}

const units: Readonly<Record<UnavailableReason | RateLimitedReason, ResourceInfo['unit']>> = {
  queue_full: 'requests',
  queue_wait: 'requests',
  concurrency: 'requests',
  tokens: 'tokens',
  memory: 'bytes',
  deadline: 'requests',
  draining: 'requests',
  loading: 'requests',
  streams: 'streams',
  workers: 'workers',
  client_rate: 'requests',
  client_tokens: 'tokens',
  client_concurrency: 'requests'
}

/** SERVICE_UNAVAILABLE. `seconds` until the work ahead is done, undefined where that is not known. */
export function refusal(
  reason: UnavailableReason,
  capacity: Capacity,
  seconds: number | undefined,
  cause?: unknown
): EngineError {
  const retryAfterSeconds = waitOf(seconds)
  const { current, limit } = capacity
  const resourceInfo = { ...capacity, unit: units[reason] }
  const message = `a request is refused, ${texts[reason]}; try again in ${retryAfterSeconds} s`
  const details = { reason, current, limit, retryAfterSeconds, resourceInfo }
  return withoutStack(() => createError('SERVICE_UNAVAILABLE', message, details, { cause }))
}

/** RATE_LIMITED. `windowSeconds` is null for what has no window. */
export function clientRefusal(
  reason: RateLimitedReason,
  client: string,
  capacity: Capacity,
  seconds: number | undefined
): EngineError {
  const retryAfterSeconds = waitOf(seconds)
  const { current, limit } = capacity
  const windowSeconds = reason === 'client_concurrency' ? null : 60
  const resourceInfo = { ...capacity, unit: units[reason] }
  const message = `a request of client ${client} is refused, ${texts[reason]}; try again in ${retryAfterSeconds} s`
  const details = { reason, client, current, limit, windowSeconds, retryAfterSeconds, resourceInfo }
  return withoutStack(() => createError('RATE_LIMITED', message, details))
}

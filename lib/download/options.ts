/** What transfers by HTTP have in common that callers may set: waits, attempts, addresses and headers. Checked at the border. */
import { validateHeaderName, validateHeaderValue } from 'node:http'
import { z } from 'zod'
import { baseDelays } from '../resilience/backoff.js'
import { profiles } from '../resilience/profiles.js'

/** How long one request may take, in milliseconds. */
export interface TransferTimeouts {
  /** Until the connection stands (TLS included). Default 10 s. */
  connectMs: number
  /** From the request to the head of the answer. Default 30 s. */
  firstByteMs: number
  /** Between two pieces of the answer. Default 15 s. */
  betweenBytesMs: number
  /** For the whole answer. Default 300 s. */
  totalMs: number
}

/** When a request that failed is made again. */
export interface TransferRetry {
  /** Attempts in all, the first one counted. */
  attempts: number
  /** Milliseconds to wait after the first, second, … failure; the last one repeats. */
  delaysMs: readonly number[]
  /** A whole number of milliseconds from 0 to this is added to each delay. */
  jitterMs: number
}

const longest = 2 ** 31 - 1
export const milliseconds = (preset: number) =>
  z.number().positive().max(longest).default(preset).describe(`a number of milliseconds above 0, up to ${longest}`)

export const integer = (min: number, max: number, preset: number) =>
  z.number().int().min(min).max(max).default(preset).describe(`an integer from ${min} to ${max}`)

export const timeoutFields = {
  connectMs: milliseconds(10_000),
  firstByteMs: milliseconds(30_000),
  betweenBytesMs: milliseconds(15_000)
}

const mostDelay = 3_600_000
const { retry } = profiles.network
const networkDelaysMs = baseDelays(retry)

export const retrySchema = z
  .strictObject({
    attempts: integer(1, 100, retry.maxAttempts),
    delaysMs: z
      .array(z.number().min(0).max(mostDelay))
      .min(1)
      .default(networkDelaysMs)
      .describe(`a list of milliseconds from 0 to ${mostDelay}`),
    jitterMs: integer(0, mostDelay, retry.jitter.addMs)
  })
  .prefault({})
  .describe('{attempts, delaysMs, jitterMs}')

/** Names and passwords in an address would be logged and copied with it: they belong into `headers`. */
export const webAddress = z
  .url({ protocol: /^https?$/ })
  .refine((text) => URL.canParse(text) && new URL(text).username === '' && new URL(text).password === '')
  .describe('an address of http or https without a name or password')

/** Whether HTTP can have these headers: what it cannot have would fail at the first request. */
function areHeaders(headers: Readonly<Record<string, string>>): boolean {
  try {
    for (const [name, value] of Object.entries(headers)) {
      validateHeaderName(name)
      validateHeaderValue(name, value)
    }
    return true
  } catch {
    return false
  }
}

export const headersSchema = z
  .record(z.string(), z.string())
  .refine(areHeaders)
  .describe('names and values that HTTP headers can have')

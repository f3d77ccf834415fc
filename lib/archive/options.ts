/** What the archive is: where it is, how long it may take, and the folder that keeps what came from it. Checked at the border. */
import { validateHeaderName, validateHeaderValue } from 'node:http'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import type { RetryProfile } from '../resilience/backoff.js'
import { networkProfile } from '../resilience/backoff.js'
import { networkBreaker } from '../resilience/breaker.js'

/** How long one request may take, in milliseconds. */
export interface ArchiveTimeouts {
  /** Until the connection stands (TLS included). Default 10 s. */
  connectMs: number
  /** From the request to the head of the answer. Default 30 s. */
  firstByteMs: number
  /** Between two pieces of the answer. Default 15 s. */
  betweenBytesMs: number
  /** For the whole answer. Default 300 s. */
  totalMs: number
}

export interface ArchiveOptions {
  /** The folder of the checkpoint on a web server or object store; a query (a signature) is kept on every request. */
  url: string
  /** Sent with every request to that host, `authorization` for example. Never logged. */
  headers?: Record<string, string>
  /** Folder for blobs that came from the archive. Default: `.cache/tiered-moe/cold` in the user's home. */
  coldFolder?: string
  /** Bytes that the cold folder may take. Default 16 GiB. */
  coldBytes?: number
  /** Requests at a time. Default 4. */
  requests?: number
  timeouts?: Partial<ArchiveTimeouts>
  /** Default: 5 attempts, 1, 2, 4, 8, 16 s after each failure, and up to 1 s more. */
  retry?: Partial<RetryProfile>
  /** Default: 5 failed blobs in a row open the circuit for 60 s. */
  breaker?: { failureThreshold?: number; cooldownMs?: number }
}

const longest = 2 ** 31 - 1
const milliseconds = (preset: number) =>
  z.number().positive().max(longest).default(preset).describe(`a number of milliseconds above 0, up to ${longest}`)

const integer = (min: number, max: number, preset: number) =>
  z.number().int().min(min).max(max).default(preset).describe(`an integer from ${min} to ${max}`)

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

const mostDelay = 3_600_000

/** Names and passwords in an address would be logged and copied with it: they belong into `headers`. */
export const archiveUrl = z
  .url({ protocol: /^https?$/ })
  .refine((text) => URL.canParse(text) && new URL(text).username === '' && new URL(text).password === '')
  .describe('an address of http or https without a name or password')

export const archiveSchema = z
  .strictObject({
    url: archiveUrl,
    headers: z
      .record(z.string(), z.string())
      .refine(areHeaders)
      .default({})
      .describe('names and values that HTTP headers can have'),
    coldFolder: z
      .string()
      .min(1)
      .refine((path) => !path.includes('\0'))
      .default(() => join(homedir(), '.cache', 'tiered-moe', 'cold'))
      .describe('the path of a folder'),
    coldBytes: integer(4096, Number.MAX_SAFE_INTEGER, 16 * 2 ** 30),
    requests: integer(1, 64, 4),
    timeouts: z
      .strictObject({
        connectMs: milliseconds(10_000),
        firstByteMs: milliseconds(30_000),
        betweenBytesMs: milliseconds(15_000),
        totalMs: milliseconds(300_000)
      })
      .prefault({})
      .describe('{connectMs, firstByteMs, betweenBytesMs, totalMs}'),
    retry: z
      .strictObject({
        attempts: integer(1, 100, networkProfile.attempts),
        delaysMs: z
          .array(z.number().min(0).max(mostDelay))
          .min(1)
          .default([...networkProfile.delaysMs])
          .describe(`a list of milliseconds from 0 to ${mostDelay}`),
        jitterMs: integer(0, mostDelay, networkProfile.jitterMs)
      })
      .prefault({})
      .describe('{attempts, delaysMs, jitterMs}'),
    breaker: z
      .strictObject({
        failureThreshold: integer(1, Number.MAX_SAFE_INTEGER, networkBreaker.failureThreshold),
        cooldownMs: milliseconds(networkBreaker.cooldownMs)
      })
      .prefault({})
      .describe('{failureThreshold, cooldownMs}')
  })
  .describe('{url, headers?, coldFolder?, coldBytes?, requests?, timeouts?, retry?, breaker?}')

export type CheckedArchive = z.output<typeof archiveSchema>

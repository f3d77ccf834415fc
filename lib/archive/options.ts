/** What the archive is: where it is, how long it may take, and the folder that keeps what came from it. Checked at the border. */
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

const milliseconds = (preset: number) =>
  z
    .number()
    .positive()
    .max(2 ** 31 - 1)
    .default(preset)

export const archiveSchema = z
  .strictObject({
    url: z.url({ protocol: /^https?$/ }),
    headers: z.record(z.string(), z.string()).default({}),
    coldFolder: z
      .string()
      .min(1)
      .default(() => join(homedir(), '.cache', 'tiered-moe', 'cold')),
    coldBytes: z
      .number()
      .int()
      .min(4096)
      .default(16 * 2 ** 30),
    requests: z.number().int().min(1).max(64).default(4),
    timeouts: z
      .strictObject({
        connectMs: milliseconds(10_000),
        firstByteMs: milliseconds(30_000),
        betweenBytesMs: milliseconds(15_000),
        totalMs: milliseconds(300_000)
      })
      .prefault({}),
    retry: z
      .strictObject({
        attempts: z.number().int().min(1).max(100).default(networkProfile.attempts),
        delaysMs: z
          .array(z.number().min(0).max(3_600_000))
          .min(1)
          .default([...networkProfile.delaysMs]),
        jitterMs: z.number().int().min(0).max(3_600_000).default(networkProfile.jitterMs)
      })
      .prefault({}),
    breaker: z
      .strictObject({
        failureThreshold: z.number().int().min(1).default(networkBreaker.failureThreshold),
        cooldownMs: milliseconds(networkBreaker.cooldownMs)
      })
      .prefault({})
  })
  .describe('{url, headers?, coldFolder?, coldBytes?, requests?, timeouts?, retry?, breaker?}, url of http or https')

export type CheckedArchive = z.output<typeof archiveSchema>

/** What the archive is: where it is, how long it may take, and the folder that keeps what came from it. Checked at the border. */
import { homedir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import type { TransferRetry, TransferTimeouts } from '../download/options.js'
import { headersSchema, integer, milliseconds, retrySchema, timeoutFields, webAddress } from '../download/options.js'
import { profiles } from '../resilience/profiles.js'

export interface ArchiveOptions {
  /**
   * The folder of the checkpoint on a web server or object store; a query (a signature) is kept on every request. Default: the address in the
   * checkpoint's manifest; where it has none, the rest of these options says nothing.
   */
  url?: string
  /** Sent with every request to that host, `authorization` for example. Never logged. */
  headers?: Record<string, string>
  /** Folder for blobs that came from the archive. Default: `.cache/tiered-moe/cold` in the user's home. */
  coldFolder?: string
  /** Bytes that the cold folder may take. Default 16 GiB. */
  coldBytes?: number
  /** Requests at a time. Default 4. */
  requests?: number
  timeouts?: Partial<TransferTimeouts>
  /** Default: 5 attempts, 1, 2, 4, 8, 16 s after each failure, and up to 1 s more. */
  retry?: Partial<TransferRetry>
  /** Default: 5 failed blobs in a row open the circuit for 60 s. */
  breaker?: { failureThreshold?: number; cooldownMs?: number }
}

const { breaker } = profiles.network

export const archiveSchema = z
  .strictObject({
    url: webAddress.optional(),
    headers: headersSchema
      .default({})
      .describe('names and values that HTTP headers can have, with the url that gets them'),
    coldFolder: z
      .string()
      .min(1)
      .refine((path) => !path.includes('\0'))
      .default(() => join(homedir(), '.cache', 'tiered-moe', 'cold'))
      .describe('the path of a folder'),
    coldBytes: integer(4096, Number.MAX_SAFE_INTEGER, 16 * 2 ** 30),
    requests: integer(1, 64, 4),
    timeouts: z
      .strictObject({ ...timeoutFields, totalMs: milliseconds(300_000) })
      .prefault({})
      .describe('{connectMs, firstByteMs, betweenBytesMs, totalMs}'),
    retry: retrySchema,
    breaker: z
      .strictObject({
        failureThreshold: integer(1, Number.MAX_SAFE_INTEGER, breaker.failureThreshold),
        cooldownMs: milliseconds(breaker.recoveryTimeoutMs)
      })
      .prefault({})
      .describe('{failureThreshold, cooldownMs}')
  })
  // A secret goes to the host that the caller names, not to one that a checkpoint does.
  .refine(({ url, headers }) => url !== undefined || Object.keys(headers).length === 0, { path: ['headers'] })
  .describe('{url?, headers?, coldFolder?, coldBytes?, requests?, timeouts?, retry?, breaker?}')

export type CheckedArchive = z.output<typeof archiveSchema>
/** One that has an address. */
export type LocatedArchive = CheckedArchive & { url: string }

/** What a server and its admission may be told, checked at the border. Knows nothing of HTTP's libraries: a configuration has these sections. */
import { isIP } from 'node:net'
import { z } from 'zod'
import { aboveZero, clientSchema, count } from '../resilience/options.js'

export interface ServerSettings {
  /** The address to listen on. What is not this machine alone needs `keys`. Default 127.0.0.1. */
  host?: string
  /** The port to listen on; 0: any that is free. Default 8080. */
  port?: number
  /** How many ports to try, one after another. Default 1. */
  portTries?: number
  /** Who may use the server; without a key everybody on this machine may. */
  keys?: readonly KeySettings[]
  limits?: LimitSettings
  deadlines?: ServerDeadlines
  /** Milliseconds that requests which have begun may go on for once the server drains. Default 30000. */
  drainMs?: number
}

export interface KeySettings {
  /** A name for logs, metrics and refusals. */
  id: string
  /** SHA-256 of the key, 64 hexadecimal digits: `printf %s KEY | sha256sum`. Or `env`, or `file`. */
  sha256?: string
  /** The variable that the key is in. */
  env?: string
  /** The file that the key is in; white space around it does not count. */
  file?: string
  /** When it ends, as ISO 8601 (`2027-01-31T00:00:00Z`). Default: never. */
  expiresAt?: string
  /** Whether it may use `/admin` and what the live page shows. Default false. */
  admin?: boolean
  /** The highest `priority` of its requests, 1 to 10, and that of those that do not say where it is less than 5. Default 10. */
  priority?: number
  /** The TierSets that its requests may ask for; those that do not say use the first. Default: all. */
  tierSets?: readonly string[]
  /** The models that it may use. Default: all. */
  models?: readonly string[]
  quota?: QuotaSettings
}

export interface QuotaSettings {
  /** Requests in a minute. */
  requestsPerMinute?: number
  /** Tokens in a minute, of prompts and texts together. */
  tokensPerMinute?: number
  /** Requests that run at a time; more of them wait. */
  concurrent?: number
  /** Tokens in all since the server began. */
  tokensTotal?: number
}

export interface LimitSettings {
  /** Bytes of a request's body. Default 4 MiB. */
  bodyBytes?: number
  /** Milliseconds for a request's head to come. Default 10000. */
  headerMs?: number
  /** Milliseconds for its body to come after that. Default 30000. */
  bodyMs?: number
  /** Milliseconds that a connection stays open without a request, or with a client that takes nothing of its reply. Default 60000. */
  idleMs?: number
  /** Connections at a time; one more is closed. Default 1024. */
  connections?: number
}

/** Milliseconds. */
export interface ServerDeadlines {
  /** For an answer in one piece, from the request's arrival to its end. Default 30000. */
  requestMs?: number
  /** For a stream, from the request's arrival to its end. Default 300000. */
  streamMs?: number
  /** From the request's turn to its first token; less than the two others. Default 30000 or less. */
  firstTokenMs?: number
}

export interface AdmissionSettings {
  /** Requests that run at a time. Default 10. */
  concurrency?: number
  /** Requests that wait; one more is refused. Default 64. */
  queueDepth?: number
  /** Milliseconds that one waits at the most. Default 10000. */
  queueWaitMs?: number
  /** Tokens of the requests that run, prompts and texts together; one alone may have more. Default: no limit. */
  tokensInFlight?: number
  /** Bytes of memory that stay free when a request begins. Default 64 MiB. */
  memoryReserveBytes?: number
  /** Of every client: a key, or an address where there are no keys. The quota of a key goes over it. */
  perClient?: ClientSettings
}

export interface ClientSettings {
  /** Requests that run at a time; more of them wait. */
  concurrency?: number
  /** Requests that wait; one more is refused. */
  queueDepth?: number
  /** Requests in a minute. */
  requestsPerMinute?: number
  /** Tokens in a minute, of prompts and texts together. */
  tokensPerMinute?: number
}

const mostMs = 2 ** 31 - 1
const milliseconds = z.number().min(1).max(mostMs).describe(`a number of milliseconds from 1 to ${mostMs}`)
const name = z
  .string()
  .regex(/^[\w.-]{1,64}$/)
  .describe('1 to 64 letters, digits, dots, _ and -')
const names = z.array(z.string().min(1).max(200)).min(1).max(256)

const keySchema = z.strictObject({
  id: name,
  sha256: z
    .string()
    .regex(/^[0-9a-fA-F]{64}$/)
    .optional()
    .describe('64 hexadecimal digits'),
  env: z.string().min(1).optional().describe('the name of a variable'),
  file: z.string().min(1).optional().describe('the path of a file'),
  expiresAt: z.iso.datetime({ offset: true }).optional().describe('a time such as 2027-01-31T00:00:00Z'),
  admin: z.boolean().default(false).describe('true or false'),
  priority: z.number().int().min(1).max(10).default(10).describe('an integer from 1 to 10'),
  tierSets: names.optional().describe('a list of names of TierSets'),
  models: names.optional().describe('a list of ids of models'),
  quota: z
    .strictObject({
      requestsPerMinute: aboveZero.optional(),
      tokensPerMinute: aboveZero.optional(),
      concurrent: count.optional(),
      tokensTotal: aboveZero.optional()
    })
    .prefault({})
})

export const serverSchema = z.strictObject({
  host: z.string().min(1).max(255).default('127.0.0.1').describe('an address or a name of this machine'),
  port: z.number().int().min(0).max(65535).default(8080).describe('an integer from 0 (any) to 65535'),
  portTries: z.number().int().min(1).max(1000).default(1).describe('an integer from 1 to 1000'),
  keys: z.array(keySchema).max(1024).default([]).describe('a list of at most 1024 keys'),
  limits: z
    .strictObject({
      bodyBytes: z
        .number()
        .int()
        .min(1)
        .max(2 ** 30)
        .default(4 * 2 ** 20)
        .describe('an integer from 1 to 1073741824'),
      headerMs: milliseconds.default(10_000),
      bodyMs: milliseconds.default(30_000),
      idleMs: milliseconds.default(60_000),
      connections: count.default(1024)
    })
    .prefault({}),
  deadlines: z
    .strictObject({
      requestMs: milliseconds.default(30_000),
      streamMs: milliseconds.default(300_000),
      firstTokenMs: milliseconds.optional()
    })
    .prefault({}),
  drainMs: z.number().min(0).max(mostMs).default(30_000).describe(`a number of milliseconds from 0 to ${mostMs}`)
})

export const admissionSchema = z.strictObject({
  concurrency: count.default(10),
  queueDepth: z.number().int().min(0).default(64).describe('an integer of at least 0'),
  queueWaitMs: z.number().min(0).max(mostMs).default(10_000).describe(`a number of milliseconds from 0 to ${mostMs}`),
  tokensInFlight: aboveZero.optional(),
  memoryReserveBytes: z
    .number()
    .min(0)
    .default(64 * 2 ** 20)
    .describe('a number of bytes of at least 0'),
  perClient: clientSchema.prefault({})
})

export type CheckedServer = z.output<typeof serverSchema>
export type CheckedKey = z.output<typeof keySchema>
export type CheckedAdmission = z.output<typeof admissionSchema>

/** Whether only this machine reaches what listens there. */
export const isLoopback = (host: string): boolean => {
  const bare = host.replace(/^\[|\]$/g, '').toLowerCase()
  if (bare === 'localhost' || bare.endsWith('.localhost')) return true
  return isIP(bare) === 4 ? bare.startsWith('127.') : bare === '::1'
}

export interface Contradiction {
  path: PropertyKey[]
  found: unknown
  allowed: string
}

/** What no field can say of itself. */
export function serverContradictions({ host, keys, deadlines }: CheckedServer): Contradiction[] {
  const faults: Contradiction[] = []
  if (keys.length === 0 && !isLoopback(host)) {
    faults.push({ path: ['host'], found: host, allowed: '127.0.0.1, ::1 or localhost, or `keys` beside it' })
  }
  const ids = new Set<string>()
  for (const [i, key] of keys.entries()) {
    if (ids.has(key.id)) faults.push({ path: ['keys', i, 'id'], found: key.id, allowed: 'an id that no other key has' })
    ids.add(key.id)
    const sources = (['sha256', 'env', 'file'] as const).filter((source) => key[source] !== undefined)
    if (sources.length !== 1) {
      const found = sources.length === 0 ? undefined : sources.join(' and ')
      faults.push({ path: ['keys', i, 'sha256'], found, allowed: 'exactly one of sha256, env and file' })
    }
  }
  const { firstTokenMs, requestMs, streamMs } = deadlines
  const least = Math.min(requestMs, streamMs)
  if (firstTokenMs !== undefined && firstTokenMs > least) {
    const allowed = `at most ${least}, the deadline around it`
    faults.push({ path: ['deadlines', 'firstTokenMs'], found: firstTokenMs, allowed })
  }
  return faults
}

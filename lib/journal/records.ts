/** What a journal is made of. Every record is one JSON object; unknown fields are ignored, so that later versions may add some. */
import { z } from 'zod'

/** Format of the segments; a journal with a higher one is refused. */
export const journalFormat = 1

const count = z.number().int().min(0)
const id = z.string().min(1)
const tokens = z.array(count)

/** First record of every segment. A compacted one holds all that the segments before it held and is still needed. */
const segment = z.object({ type: z.literal('segment'), format: count, number: count, compacted: z.boolean() })

/** An engine has opened the journal. */
const start = z.object({
  type: z.literal('start'),
  at: z.number(),
  /** Of this package, and of Node. */
  version: z.string(),
  node: z.string(),
  /** 128 bits, hexadecimal. */
  routingSeed: z.string().optional()
})

/** How a model's file is recognised. `sha256` is of all its bytes, or of samples where `sampled` (then `modifiedNs` counts too). */
const identity = z.object({ bytes: count, modifiedNs: z.string(), sha256: z.string(), sampled: z.boolean() })
export type ModelIdentity = z.output<typeof identity>

/** A model was loaded; `load` numbers the loads of this journal. */
const model = z.object({
  type: z.literal('model'),
  load: count,
  id,
  path: z.string(),
  identity,
  /** As loadModel takes them, so that it can be called again. */
  options: z.record(z.string(), z.unknown()),
  /** Positions that its sequences may hold: it says where a text ends. */
  contextLength: count,
  /** Its routers' seed: 128 bits, hexadecimal. */
  routingSeed: z.string(),
  /** SHA-256 of which experts each of its tiers has. */
  tiersSha256: z.string(),
  /** Of the load whose experts this one goes on with, before any of them was changed. */
  origin: identity.optional(),
  at: z.number()
})
const unload = z.object({ type: z.literal('unload'), load: count, at: z.number() })

/** A TierSet was activated for a load's later requests, or a latency budget by which each one's is chosen. */
const tierSet = z.object({
  type: z.literal('tierSet'),
  load: count,
  tiers: z.array(z.string()),
  latencyBudgetMs: z.number().optional(),
  at: z.number()
})

/** A tier's files are in another folder from here on; null: nowhere, as before. */
const tierFolder = z.object({
  type: z.literal('tierFolder'),
  load: count,
  tier: z.string(),
  folder: z.string().nullable(),
  at: z.number()
})

const blob = z.object({ path: z.string(), offset: count, crc32c: count, sha256: z.string() })

/** Experts of a load got new versions; requests accepted from here on use them. Kept until no request needs them. */
const experts = z.object({
  type: z.literal('experts'),
  load: count,
  epoch: count,
  experts: z.array(
    z.object({
      layer: count,
      expert: count,
      version: count,
      blob,
      /** Without a blob: what the model's file has. */
      previous: z.object({ version: count, blob: blob.optional() })
    })
  ),
  at: z.number()
})

/** A load's changed experts are being written into its checkpoint, which is then this one; `before`: what it is until then. */
const persisted = z.object({
  type: z.literal('persisted'),
  load: count,
  identity,
  before: identity.optional(),
  at: z.number()
})

const accepted = z.object({
  type: z.literal('accepted'),
  id,
  load: count,
  /** In the form that createGenerator takes, with promptTokens, seed and the resolved tierSet. */
  request: z.record(z.string(), z.unknown()),
  /** Version of the experts that it uses: the `epoch` of the latest change. */
  epoch: count,
  at: z.number()
})

/** Tokens from position `from` of the output on; `delivered` of all were handed to the consumer. */
const produced = z.object({
  type: z.literal('tokens'),
  id,
  from: count,
  tokens,
  logprobs: z.array(z.number()).optional(),
  top: z.array(z.array(z.object({ token: count, logprob: z.number() }))).optional(),
  delivered: count
})

/** Journals of earlier versions have no cachedTokens. */
const usage = z.object({
  promptTokens: count,
  cachedTokens: count.default(0),
  completionTokens: count,
  totalTokens: count
})
const finished = z.object({
  type: z.literal('finished'),
  id,
  reason: z.enum(['stop', 'length']),
  usage,
  at: z.number()
})
const failed = z.object({ type: z.literal('failed'), id, code: z.string(), at: z.number() })
/** The client has the text, or wants it no more. */
const acknowledged = z.object({ type: z.literal('acknowledged'), id, at: z.number() })

export const recordSchema = z.discriminatedUnion('type', [
  segment,
  start,
  model,
  unload,
  tierSet,
  tierFolder,
  experts,
  persisted,
  accepted,
  produced,
  finished,
  failed,
  acknowledged
])

export type JournalRecord = z.output<typeof recordSchema>
export type SegmentRecord = z.output<typeof segment>
export type StartRecord = z.output<typeof start>
export type ModelRecord = z.output<typeof model>
export type TierSetRecord = z.output<typeof tierSet>
export type TierFolderRecord = z.output<typeof tierFolder>
export type ExpertsRecord = z.output<typeof experts>
export type PersistedRecord = z.output<typeof persisted>
export type AcceptedRecord = z.output<typeof accepted>
export type TokensRecord = z.output<typeof produced>
export type FinishedRecord = z.output<typeof finished>
export type FailedRecord = z.output<typeof failed>

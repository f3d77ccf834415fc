/** Who asks: bearer keys, kept and compared as their SHA-256. A key itself is in no error, log or metric. */
import { createHash, timingSafeEqual } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { configInvalid } from '../config/provenance.js'
import type { EngineError } from '../errors/index.js'
import { createError, isSystemError, messageOf } from '../errors/index.js'
import type { CheckedKey } from './settings.js'

/** Who sent a request. */
export interface Caller {
  /** The id of its key, or its address where the server has no keys. */
  client: string
  /** Undefined where the server has no keys: then everybody who reaches it may do everything. */
  key: CheckedKey | undefined
}

const sha256 = (text: string): Buffer => createHash('sha256').update(text).digest()

export class KeyRing {
  readonly #keys: readonly { key: CheckedKey; digest: Buffer }[]
  readonly #byId: ReadonlyMap<string, CheckedKey>

  private constructor(keys: readonly { key: CheckedKey; digest: Buffer }[]) {
    this.#keys = keys
    this.#byId = new Map(keys.map(({ key }) => [key.id, key]))
  }

  /** Reads the keys that are in variables and files. CONFIG_INVALID, CONFIG_NOT_FOUND. */
  static async open(
    keys: readonly CheckedKey[],
    env: Readonly<Record<string, string | undefined>> = process.env
  ): Promise<KeyRing> {
    const digests = keys.map(async (key, i) => ({ key, digest: await digestOf(key, `server.keys[${i}]`, env) }))
    const all = await Promise.all(digests)
    const known = new Set<string>()
    for (const [i, { digest }] of all.entries()) {
      const hex = digest.toString('hex')
      // Whose rights it has could not be said.
      if (known.has(hex)) throw twice(`server.keys[${i}]`)
      known.add(hex)
    }
    return new KeyRing(all)
  }

  get size(): number {
    return this.#keys.length
  }

  get(id: string): CheckedKey | undefined {
    return this.#byId.get(id)
  }

  /** The key of an `authorization` header. UNAUTHORIZED {reason}, AUTH_TOKEN_EXPIRED {keyId, expiredAt}. */
  authenticate(header: string | undefined): CheckedKey {
    if (header === undefined) throw unauthorized('missing', 'the request has no key')
    const [, token] = /^bearer +([^\s]+) *$/i.exec(header) ?? []
    if (token === undefined) throw unauthorized('malformed', 'the header authorization is not `Bearer KEY`')
    const digest = sha256(token)
    let found: CheckedKey | undefined
    // All of them, so that the time says nothing of which one it is.
    for (const known of this.#keys) if (timingSafeEqual(known.digest, digest)) found = known.key
    if (!found) throw unauthorized('unknown', 'the server does not know this key')
    const { id: keyId, expiresAt } = found
    if (expiresAt === undefined || Date.parse(expiresAt) > Date.now()) return found
    throw createError('AUTH_TOKEN_EXPIRED', `the key ${keyId} has expired at ${expiresAt}`, {
      keyId,
      expiredAt: expiresAt
    })
  }
}

async function digestOf(
  { sha256: hex, env: name, file }: CheckedKey,
  path: string,
  env: Readonly<Record<string, string | undefined>>
): Promise<Buffer> {
  if (hex !== undefined) return Buffer.from(hex, 'hex')
  if (name !== undefined) {
    const value = env[name]?.trim()
    if (value) return sha256(value)
    // Not its name: that may be a key that was written in the wrong place.
    const found = 'the name of a variable that is not there, or is empty'
    const allowed = 'the name of a variable that has a key'
    throw configInvalid([{ path: `${path}.env`, found, allowed, source: 'option' }])
  }
  const text = await readFile(file!, 'utf8').catch((error: unknown) => {
    if (!isSystemError(error)) throw error
    throw createError('CONFIG_NOT_FOUND', `the key of ${path} cannot be read: ${messageOf(error)}`, {
      path: file!,
      tried: [file!]
    })
  })
  if (text.trim() !== '') return sha256(text.trim())
  throw configInvalid([{ path: `${path}.file`, found: 'an empty file', allowed: 'a file with a key', source: file! }])
}

const twice = (path: string): EngineError =>
  configInvalid([{ path, found: 'the key of an earlier id', allowed: 'a key that no other id has', source: 'option' }])

const unauthorized = (reason: 'missing' | 'malformed' | 'unknown', text: string): EngineError =>
  createError('UNAUTHORIZED', text, { reason })

export const forbidden = (caller: Pick<Caller, 'key'> | undefined, need: string, text: string): EngineError =>
  createError('FORBIDDEN', text, { keyId: caller?.key?.id ?? null, need })

/** FORBIDDEN unless the caller may administer the server. */
export function checkAdmin(caller: Caller): void {
  if (caller.key && !caller.key.admin) throw forbidden(caller, 'admin', `the key ${caller.key.id} is no admin's`)
}

/** FORBIDDEN unless the caller may use the model. */
export function checkModel(caller: Caller, model: string): void {
  if (caller.key?.models && !caller.key.models.includes(model)) {
    throw forbidden(caller, `model ${model}`, `the key ${caller.key.id} may not use the model ${model}`)
  }
}

/** The TierSet of a request, as its key allows: FORBIDDEN for another one, and for a latency budget, which may choose any. */
export function allowedTierSet(
  caller: Caller,
  tierSet: string | readonly string[] | undefined,
  latencyBudgetMs: number | undefined
): string | readonly string[] | undefined {
  const allowed = caller.key?.tierSets
  if (!allowed) return tierSet
  if (tierSet === undefined && latencyBudgetMs === undefined) return allowed[0]
  if (typeof tierSet === 'string' && allowed.includes(tierSet)) return tierSet
  const asked = tierSet === undefined ? 'a latency budget' : `the TierSet ${[tierSet].flat().join(', ')}`
  const text = `the key ${caller.key!.id} may not ask for ${asked}, only for ${allowed.join(', ')}`
  throw forbidden(caller, `tierSet ${allowed.join(', ')}`, text)
}

/** What a request of the caller weighs in the queue. */
export const priorityOf = ({ key }: Caller, asked: number | undefined): number =>
  Math.min(asked ?? 5, key?.priority ?? 10)

/** What each key may use: limits of a minute for the admission, and tokens in all, counted here since the server began. */
import type { EngineError } from '../errors/index.js'
import { createError } from '../errors/index.js'
import type { ClientLimits } from '../resilience/index.js'
import type { KeyRing } from './keys.js'
import type { CheckedAdmission } from './settings.js'

export class Quotas {
  readonly #keys: KeyRing
  readonly #perClient: CheckedAdmission['perClient']
  readonly #used = new Map<string, number>()

  constructor(keys: KeyRing, perClient: CheckedAdmission['perClient']) {
    this.#keys = keys
    this.#perClient = perClient
  }

  /** Of the admission, for one client. */
  limitsOf(client: string): ClientLimits {
    const { requestsPerMinute, tokensPerMinute, concurrent } = this.#keys.get(client)?.quota ?? {}
    return {
      ...this.#perClient,
      ...(requestsPerMinute !== undefined && { requestsPerMinute }),
      ...(tokensPerMinute !== undefined && { tokensPerMinute }),
      ...(concurrent !== undefined && { concurrency: concurrent })
    }
  }

  /** RATE_LIMITED {reason: client_quota} of a client that has used all its tokens; undefined while it has some. */
  precheck(client: string): EngineError | undefined {
    const limit = this.#keys.get(client)?.quota.tokensTotal
    const current = this.#used.get(client) ?? 0
    if (limit === undefined || current < limit) return undefined
    const text = `the key ${client} has used ${current} tokens of ${limit}`
    return createError('RATE_LIMITED', text, {
      reason: 'client_quota',
      client,
      current,
      limit,
      windowSeconds: null,
      // Only somebody who gives it more can help.
      retryAfterSeconds: 3600,
      resourceInfo: { required: 1, available: Math.max(0, limit - current), current, limit, unit: 'tokens' }
    })
  }

  used(client: string, tokens: number): void {
    if (this.#keys.get(client)?.quota.tokensTotal === undefined) return
    this.#used.set(client, (this.#used.get(client) ?? 0) + tokens)
  }
}

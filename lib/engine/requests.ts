/** The requests that have begun and not ended: what is told of each, and when none is left. */
import { randomUUID } from 'node:crypto'
import { performance } from 'node:perf_hooks'
import type { GenerationObserver, GenerationOutcome } from '../generation/items.js'
import type { RequestStart } from '../loaded-model.js'
import { shortened } from '../telemetry/redaction.js'
import type { Telemetry } from '../telemetry/telemetry.js'

/** The beginning of a prompt as text; a character has four bytes at the most. */
const textOf = (prompt: string | Uint8Array): string =>
  typeof prompt === 'string' ? prompt : new TextDecoder().decode(prompt.subarray(0, 4000))

export class Requests {
  readonly #telemetry: Telemetry
  readonly #logPrompts: boolean
  readonly #idle: (() => void)[] = []
  readonly #delivered: (() => void)[] = []
  #active = 0
  #owed = 0

  constructor(telemetry: Telemetry, logPrompts: boolean) {
    this.#telemetry = telemetry
    this.#logPrompts = logPrompts
  }

  /** Consumers that have not got everything yet. */
  get owed(): number {
    return this.#owed
  }

  /** Resolves when no request is under way. */
  idle(): Promise<void> {
    return this.#active === 0 ? Promise.resolve() : new Promise((resolve) => this.#idle.push(resolve))
  }

  /** Resolves when every consumer has what it was to get. */
  delivered(): Promise<void> {
    return this.#owed === 0 ? Promise.resolve() : new Promise((resolve) => this.#delivered.push(resolve))
  }

  begin(start: RequestStart): GenerationObserver {
    const { metrics, tracing } = this.#telemetry
    const { method, model, requestId, promptTokens, prompt } = start
    const labels = { model }
    const began = performance.now()
    let last = began
    let tokens = 0
    this.#active++
    this.#owed++
    metrics.active.add(1, labels)
    metrics.waiting.add(1, labels)
    const shown = this.#logPrompts && prompt !== undefined ? { prompt: shortened(textOf(prompt)) } : {}
    this.#telemetry.event('request_started', `request ${requestId} began`, {
      requestId,
      model,
      method,
      promptTokens,
      ...shown
    })
    const span = tracing.span('tiered_moe.request', {
      'tiered_moe.model': model,
      'tiered_moe.request_id': requestId,
      'tiered_moe.method': method,
      'tiered_moe.prompt_tokens': promptTokens
    })
    return {
      token: () => {
        const now = performance.now()
        const seconds = (now - last) / 1000
        last = now
        if (tokens++ === 0) {
          metrics.waiting.add(-1, labels)
          metrics.firstToken.observe(seconds, labels)
        } else metrics.tokenTime.observe(seconds, labels)
      },
      ended: (outcome) => {
        if (tokens === 0) metrics.waiting.add(-1, labels)
        const durationMs = performance.now() - began
        span.set({
          'tiered_moe.completion_tokens': outcome.usage.completionTokens,
          'tiered_moe.steps': outcome.steps,
          'tiered_moe.outcome': outcomeName(outcome)
        })
        span.end(outcome.error)
        this.#count(model, outcome, durationMs)
        if (outcome.error !== undefined) this.#telemetry.error(outcome.error, { method, model, requestId })
        else {
          const { finishReason, usage, steps } = outcome
          const fields = { requestId, model, method, finishReason, ...usage, steps, durationMs }
          this.#telemetry.event('request_finished', `request ${requestId} ended`, fields)
        }
        this.#active--
        if (this.#active === 0) for (const resolve of this.#idle.splice(0)) resolve()
      },
      delivered: () => {
        this.#owed--
        if (this.#owed === 0) for (const resolve of this.#delivered.splice(0)) resolve()
      }
    }
  }

  /** A request that is one call without a text. Throws what the call throws. */
  async track<Result>(
    method: string,
    model: string,
    promptTokens: number,
    call: () => Promise<Result>
  ): Promise<Result> {
    const usage = { promptTokens, completionTokens: 0, totalTokens: promptTokens }
    const observer = this.begin({ method, model, requestId: randomUUID(), promptTokens })
    try {
      const result = await call()
      observer.ended({ finishReason: 'stop', usage, steps: 1 })
      return result
    } catch (error) {
      observer.ended({ error, usage, steps: 1 })
      throw error
    } finally {
      observer.delivered()
    }
  }

  #count(model: string, outcome: GenerationOutcome, durationMs: number): void {
    const { metrics } = this.#telemetry
    metrics.active.add(-1, { model })
    metrics.requests.add(1, { model, outcome: outcomeName(outcome) })
    metrics.promptTokens.add(outcome.usage.promptTokens, { model })
    metrics.completionTokens.add(outcome.usage.completionTokens, { model })
    metrics.steps.add(outcome.steps, { model })
    metrics.requestTime.observe(durationMs / 1000, { model })
  }
}

const outcomeName = ({ finishReason, error }: GenerationOutcome): string =>
  error !== undefined ? 'error' : (finishReason ?? 'abandoned')

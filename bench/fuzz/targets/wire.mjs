// Parsers of what other processes send.
import { EngineError, errorFromWire } from '../../../dist/esm/errors/index.js'
import { isRetryable } from '../../../dist/esm/resilience/index.js'
import { mutatedText, mutatedValue } from '../mutate.mjs'

/** Errors that came as JSON, and what is made of them again. */
export async function errors() {
  const details = {
    requestId: 'r',
    method: 'generate',
    timeout: 5,
    duration: 6,
    retryAfterMs: 3,
    state: 'OPEN',
    usage: { promptTokens: 2 }
  }
  const codes = ['CANCELLED', 'CIRCUIT_BREAKER_OPEN', 'INFERENCE_TIMEOUT', 'UNKNOWN_ERROR', 'MODEL_CORRUPTED']
  const samples = codes.map((code) => new EngineError(code, 'what happened', details, { cause: 'why' }).toJSON())
  return {
    make(draw) {
      const wire = mutatedValue(draw, JSON.parse(JSON.stringify(draw.pick(samples))))
      const outer = draw.pick([
        wire,
        { error: wire },
        { jsonrpc: '2.0', id: 1, error: { code: -32000, message: 'x', data: wire } }
      ])
      const text = JSON.stringify(outer) ?? 'null'
      return draw.chance(0.3) ? mutatedText(draw, [text]) : text
    },
    parse(text) {
      let wire
      try {
        wire = JSON.parse(text)
      } catch {
        return 'no JSON'
      }
      const error = errorFromWire(wire)
      isRetryable(error)
      JSON.stringify(error)
      return error.code
    }
  }
}

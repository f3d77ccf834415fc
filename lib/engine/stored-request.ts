/** A checked request as a journal keeps it: in the form that createGenerator takes, as JSON, with tokens instead of text. */
import type { CheckedRequest } from '../generation/options.js'
import { checkRequest } from '../generation/options.js'

interface StoredCapture {
  tokens: number
  layers: number
  k: number
  ids: number[]
  weights: number[]
}

export function storedRequest(request: CheckedRequest, prompt: Int32Array): Record<string, unknown> {
  const {
    prompt: _text,
    messages: _messages,
    requestId: _id,
    topLogprobs,
    logprobs: _asked,
    replayRouting,
    ...rest
  } = request
  return {
    ...rest,
    promptTokens: Array.from(prompt),
    ...(topLogprobs >= 0 && { logprobs: true, topLogprobs }),
    ...(replayRouting && {
      replayRouting: {
        ...replayRouting,
        ids: Array.from(replayRouting.ids),
        weights: Array.from(replayRouting.weights)
      }
    })
  }
}

/** The request that was stored. Throws VALIDATION_ERROR where this version has no such request. */
export function restoredRequest(stored: Record<string, unknown>, requestId: string): CheckedRequest {
  const { replayRouting, ...rest } = stored
  const capture = replayRouting as StoredCapture | undefined
  return checkRequest('resumeGenerator', {
    ...rest,
    requestId,
    ...(capture && {
      replayRouting: { ...capture, ids: Int32Array.from(capture.ids), weights: Float32Array.from(capture.weights) }
    })
  })
}

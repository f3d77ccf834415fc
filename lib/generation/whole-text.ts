/** A generation from its first token to its last, as one result. */
import { createError } from '../errors/index.js'
import type { FinishReason, GenerationItem, TokenItem, Usage } from './items.js'
import type { RoutingCapture } from './routing.js'
import { joinCaptures } from './routing.js'

/** The whole text of a generation. */
export interface GenerationResult {
  text: string
  tokens: number[]
  finishReason: FinishReason
  usage: Usage
  seed: number
  requestId: string
  /** The tiers that the request could use. */
  tierSet: readonly string[]
  /** With `captureRouting` only: the experts of every position that was computed. */
  routing?: RoutingCapture
}

/** Throws what the items' iterator does. */
export async function wholeText(items: AsyncIterable<GenerationItem>): Promise<GenerationResult> {
  let text = ''
  const tokens: number[] = []
  const routed: TokenItem[] = []
  for await (const item of items) {
    text += item.text
    if (item.finishReason === undefined) {
      tokens.push(item.token)
      if ('routing' in item) routed.push(item)
    } else {
      const { finishReason, usage, seed, requestId, tierSet } = item
      const routing = routed.length > 0 && { routing: joinCaptures(routed.map(({ routing }) => routing!)) }
      return { text, tokens, finishReason, usage, seed, requestId, tierSet, ...routing }
    }
  }
  throw createError('RUNTIME_INVARIANT_VIOLATED', 'a generation ended without its last item', { method: 'generate' })
}

/** OpenAI's replies: the whole text, and the chunks of a stream. */
import type { FinalItem, GenerationItem, TokenItem, Usage } from '../generation/items.js'
import type { Form } from './openai-request.js'

/** A token with the probability that it had. */
export interface NamedLogprob {
  token: string
  bytes: number[]
  logprob: number
}

export interface TokenLogprobs extends NamedLogprob {
  top_logprobs: NamedLogprob[]
}

/** What all replies of a request have. */
export interface ReplyHead {
  id: string
  /** Seconds since the epoch. */
  created: number
  model: string
}

const usageOf = ({ promptTokens, cachedTokens, completionTokens, totalTokens }: Usage) => ({
  prompt_tokens: promptTokens,
  prompt_tokens_details: { cached_tokens: cachedTokens },
  completion_tokens: completionTokens,
  total_tokens: totalTokens
})

const objects = {
  chat: { whole: 'chat.completion', chunk: 'chat.completion.chunk' },
  completion: { whole: 'text_completion', chunk: 'text_completion' }
} as const

/** Log probabilities as the form has them; `offset` is that of the first token's text, in UTF-16 units. */
function logprobsOf(form: Form, tokens: readonly TokenLogprobs[] | undefined, offset: number): unknown {
  if (!tokens) return null
  if (form === 'chat') return { content: tokens, refusal: null }
  let at = offset
  const offsets = tokens.map(({ token }) => {
    const own = at
    at += token.length
    return own
  })
  return {
    tokens: tokens.map(({ token }) => token),
    token_logprobs: tokens.map(({ logprob }) => logprob),
    top_logprobs: tokens.map(({ top_logprobs: top }) =>
      Object.fromEntries(top.map(({ token, logprob }) => [token, logprob]))
    ),
    text_offset: offsets
  }
}

/** How it was computed: with the same seed and TierSet the same request gives the same text. */
const extension = ({ seed, tierSet }: FinalItem) => ({ tiered_moe: { seed, tier_set: tierSet } })

/** `logprobs` where they were asked for. */
export function wholeReply(
  form: Form,
  head: ReplyHead,
  text: string,
  final: FinalItem,
  logprobs: readonly TokenLogprobs[] | undefined
): unknown {
  const { finishReason, usage } = final
  const content = form === 'chat' ? { message: { role: 'assistant', content: text, refusal: null } } : { text }
  const choice = { index: 0, ...content, logprobs: logprobsOf(form, logprobs, 0), finish_reason: finishReason }
  return { ...head, object: objects[form].whole, choices: [choice], usage: usageOf(usage), ...extension(final) }
}

/** The chunks of one stream. */
export class Chunks {
  readonly #form: Form
  readonly #head: ReplyHead
  readonly #includeUsage: boolean
  #begun = false
  /** UTF-16 units of the texts of the tokens until now. */
  #offset = 0

  constructor(form: Form, head: ReplyHead, includeUsage: boolean) {
    this.#form = form
    this.#head = head
    this.#includeUsage = includeUsage
  }

  /** What a client gets for an item: none where its text is not decided yet and no log probability was asked for. */
  of(item: GenerationItem, logprob: TokenLogprobs | undefined): object[] {
    const { text, finishReason } = item
    const chat = this.#form === 'chat'
    const chunks: object[] = []
    if (chat && !this.#begun) chunks.push(this.#chunk({ delta: { role: 'assistant', content: '' } }, null))
    this.#begun = true
    if (text !== '' || logprob) {
      const logprobs = logprobsOf(this.#form, logprob && [logprob], this.#offset)
      this.#offset += logprob?.token.length ?? 0
      chunks.push(this.#chunk(chat ? { delta: { content: text } } : { text }, null, logprobs))
    }
    if (finishReason === undefined) return chunks
    chunks.push({ ...this.#chunk(chat ? { delta: {} } : { text: '' }, finishReason), ...extension(item) })
    if (this.#includeUsage) {
      chunks.push({ ...this.#head, object: objects[this.#form].chunk, choices: [], usage: usageOf(item.usage) })
    }
    return chunks
  }

  #chunk(content: object, finish: string | null, logprobs: unknown = null): object {
    const choice = { index: 0, ...content, logprobs, finish_reason: finish }
    const usage = this.#includeUsage && { usage: null }
    return { ...this.#head, object: objects[this.#form].chunk, choices: [choice], ...usage }
  }
}

type Named = (tokens: readonly number[]) => Promise<Uint8Array[]>

/** The log probabilities of a token, with the texts of the tokens. */
export async function namedLogprobs(item: TokenItem, bytesOf: Named): Promise<TokenLogprobs> {
  const top = item.topLogprobs ?? []
  const [own, ...others] = await bytesOf([item.token, ...top.map(({ token }) => token)])
  const named = (bytes: Uint8Array, logprob: number): NamedLogprob => ({
    // A token may be a part of a character.
    token: Buffer.from(bytes).toString('utf8'),
    bytes: [...bytes],
    logprob
  })
  const tops = top.map(({ logprob }, i) => named(others[i]!, logprob))
  return { ...named(own!, item.logprob!), top_logprobs: tops }
}

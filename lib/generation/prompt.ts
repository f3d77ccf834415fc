/** The tokens that a request begins with. */
import { createError } from '../errors/index.js'
import type { Tokenizer } from '../model/tokenizer.js'
import { validationError } from '../validation.js'
import type { CheckedRequest } from './options.js'
import { copyTokens } from './options.js'

/** Tokens beyond the context that are still counted, so that who asked knows how many are too many. */
const COUNTED_BEYOND = 10_000

/** Throws TOKENIZER_UNSUPPORTED, CHAT_TEMPLATE_INVALID, CONTEXT_LENGTH_EXCEEDED, and VALIDATION_ERROR where there is no token or one that `model` does not have. */
export function promptTokens(
  method: string,
  request: CheckedRequest,
  tokenizer: Tokenizer,
  { model, vocab, contextLength }: { model: string; vocab: number; contextLength: number }
): Int32Array {
  const refuse = (found: string, required: number): never => {
    const text = `the prompt has ${found} tokens, the context of ${model} holds ${contextLength}`
    throw createError('CONTEXT_LENGTH_EXCEEDED', text, { model, required, limit: contextLength })
  }
  const counted = contextLength + COUNTED_BEYOND
  const room = { tokens: counted, exceeded: () => refuse(`more than ${counted}`, counted + 1) }
  if (request.stop.length > 0 && tokenizer.vocab === 0) {
    throw createError('TOKENIZER_UNSUPPORTED', 'stop strings need a tokenizer, and the file of the model has none', {
      model,
      tokenizer: null
    })
  }
  let tokens: ArrayLike<number> = request.promptTokens ?? []
  let path = 'promptTokens'
  if (request.prompt !== undefined) {
    path = 'prompt'
    tokens = tokenizer.encode(request.prompt, { parseSpecial: request.parseSpecial, room })
  } else if (request.messages !== undefined) {
    path = 'messages'
    tokens = tokenizer.encodeChat(request.messages, { parseSpecial: request.parseSpecial, room })
  }
  // Checked is the copy, which nobody can change any more.
  const copy = copyTokens(tokens)
  checkTokens(method, path, copy, vocab)
  if (copy.length > contextLength) refuse(`${copy.length}`, copy.length)
  return copy
}

/** Throws VALIDATION_ERROR unless there is a token and each is one of the model's. */
export function checkTokens(method: string, path: string, tokens: Int32Array, vocab: number): void {
  if (tokens.length === 0) throw validationError(method, path, tokens, 'at least one token')
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i]!
    if (!(token >= 0 && token < vocab)) {
      throw validationError(method, `${path}[${i}]`, token, `a token id from 0 to ${vocab - 1}`)
    }
  }
}

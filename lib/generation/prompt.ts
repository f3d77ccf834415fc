/** The tokens that a request begins with. */
import { createError } from '../errors/index.js'
import type { Tokenizer } from '../model/tokenizer.js'
import { validationError } from '../validation.js'
import type { CheckedRequest } from './options.js'
import { copyTokens } from './options.js'

/** Throws TOKENIZER_UNSUPPORTED, CHAT_TEMPLATE_INVALID, and VALIDATION_ERROR where there is no token or one that `model` does not have. */
export function promptTokens(
  method: string,
  request: CheckedRequest,
  tokenizer: Tokenizer,
  { model, vocab }: { model: string; vocab: number }
): Int32Array {
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
    tokens = tokenizer.encode(request.prompt, { parseSpecial: request.parseSpecial })
  } else if (request.messages !== undefined) {
    path = 'messages'
    const text = tokenizer.applyChatTemplate(request.messages, { addGenerationPrompt: true })
    // The template writes the special tokens itself.
    tokens = tokenizer.encode(text, { addSpecial: false, parseSpecial: true })
  }
  // Checked is the copy, which nobody can change any more.
  const copy = copyTokens(tokens)
  checkTokens(method, path, copy, vocab)
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

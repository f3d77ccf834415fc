/** What an encoding over characters gives for a character that is no token: its bytes' tokens, the unknown token, or an error. */
import { createError } from '../errors/index.js'

const encoder = new TextEncoder()

export interface Fallback {
  /** Id of each byte's token (`<0x0A>`), where there is one. */
  readonly byteIds: readonly (number | undefined)[]
  readonly unknownId: number | undefined
  /** Whether unknown neighbours are one. */
  readonly fuseUnknown: boolean
}

/** TOKENIZER_UNSUPPORTED {byte} where there is neither a token for each byte nor one for what is unknown. */
export function pushUnknown(
  character: string | Uint8Array,
  { byteIds, unknownId, fuseUnknown }: Fallback,
  ids: number[]
): void {
  const bytes = typeof character === 'string' ? encoder.encode(character) : character
  const missing = bytes.find((byte) => byteIds[byte] === undefined)
  if (missing === undefined) {
    for (const byte of bytes) ids.push(byteIds[byte]!)
  } else if (unknownId !== undefined) {
    if (!fuseUnknown || ids.at(-1) !== unknownId) ids.push(unknownId)
  } else {
    throw createError('TOKENIZER_UNSUPPORTED', `the vocabulary has no token for byte ${missing} of the text`, {
      tokenizer: 'llama',
      byte: missing,
      supported: 'a vocabulary with every byte of the text, or a token for what is unknown'
    })
  }
}

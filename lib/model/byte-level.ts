/** The byte-level alphabet of GPT-2: every byte is one printable character. Source: the GPT-2 encoder's published table. */

/** Character of each byte. */
export const BYTE_SYMBOLS: readonly string[] = (() => {
  let next = 256
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174
    return String.fromCharCode(printable ? byte : next++)
  })
})()

const BYTE_OF = new Map(BYTE_SYMBOLS.map((symbol, byte) => [symbol, byte]))
const encoder = new TextEncoder()

/** The symbols of bytes. */
export function symbolsOfBytes(bytes: Uint8Array): string {
  let symbols = ''
  for (const byte of bytes) symbols += BYTE_SYMBOLS[byte]
  return symbols
}

/** The bytes that a token's symbols stand for; a character outside of the alphabet stands for itself. */
export function bytesOfSymbols(token: string): Uint8Array {
  const bytes: number[] = []
  for (const character of token) {
    const byte = BYTE_OF.get(character)
    if (byte === undefined) bytes.push(...encoder.encode(character))
    else bytes.push(byte)
  }
  return Uint8Array.from(bytes)
}

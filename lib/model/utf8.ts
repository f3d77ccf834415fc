/**
 * Text that arrives as bytes and need not be UTF-8. Byte-level encodings take a byte that is none as U+FFFD, and decode the rest by its
 * lead bytes alone, overlong forms and surrogates too; encodings over characters take it as it is. Both are what llama.cpp does.
 */

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const encoder = new TextEncoder()

/** Where lossless text has a byte that is no UTF-8: an unpaired low surrogate, U+DC00 and the byte. */
const ESCAPE = 0xdc00
const ESCAPED = /[\udc80-\udcff]/u

const continues = (byte: number | undefined): boolean => byte !== undefined && (byte & 0xc0) === 0x80

/** Bytes of the character that starts at `at`; 0 where none does. */
function validLength(bytes: Uint8Array, at: number): number {
  const lead = bytes[at]!
  if (lead < 0x80) return 1
  const second = bytes[at + 1]
  if (lead < 0xc2 || lead > 0xf4 || !continues(second)) return 0
  if (lead < 0xe0) return 2
  if (!continues(bytes[at + 2])) return 0
  if (lead < 0xf0) return (lead === 0xe0 && second! < 0xa0) || (lead === 0xed && second! > 0x9f) ? 0 : 3
  return !continues(bytes[at + 3]) || (lead === 0xf0 && second! < 0x90) || (lead === 0xf4 && second! > 0x8f) ? 0 : 4
}

function codePointAt(bytes: Uint8Array, at: number, length: number): number {
  if (length === 1) return bytes[at]!
  let code = bytes[at]! & (0x7f >> length)
  for (let i = 1; i < length; i++) code = (code << 6) | (bytes[at + i]! & 0x3f)
  return code
}

/** The text of bytes; one that is no UTF-8 becomes an unpaired surrogate, so that `bytesOfLossless` gives the same bytes. */
export function losslessText(bytes: Uint8Array): { text: string; valid: boolean } {
  try {
    return { text: strict.decode(bytes), valid: true }
  } catch {
    const units = new Uint16Array(bytes.length)
    let count = 0
    for (let at = 0; at < bytes.length; ) {
      const length = validLength(bytes, at)
      const code = length > 0 ? codePointAt(bytes, at, length) : ESCAPE + bytes[at]!
      if (code > 0xffff) {
        units[count++] = 0xd7c0 + (code >> 10)
        units[count++] = 0xdc00 + (code & 0x3ff)
      } else units[count++] = code
      at += length || 1
    }
    return { text: Buffer.from(units.buffer, 0, 2 * count).toString('utf16le'), valid: false }
  }
}

/** Whether lossless text has bytes that are no UTF-8. */
export const hasEscapes = (text: string): boolean => ESCAPED.test(text)

export function bytesOfLossless(text: string): Uint8Array {
  const parts = text.split(/([\udc80-\udcff]+)/u).map((part, i) => {
    return i % 2 === 0 ? encoder.encode(part) : Uint8Array.from(part, (unit) => unit.charCodeAt(0) - ESCAPE)
  })
  return Buffer.concat(parts)
}

/** Length by the lead byte alone; 0 for one that leads nothing or is not followed by what it asks for. */
function looseLength(bytes: Uint8Array, at: number): number {
  const lead = bytes[at]!
  if (lead < 0x80) return 1
  const length = lead < 0xc0 || lead > 0xf7 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4
  for (let i = 1; i < length; i++) if (!continues(bytes[at + i])) return 0
  return length === 4 && codePointAt(bytes, at, 4) > 0x10ffff ? 0 : length
}

/** Writes a code point, a surrogate too; where the next one goes. */
function writeCodePoint(out: Uint8Array, at: number, code: number): number {
  if (code < 0x80) {
    out[at] = code
    return at + 1
  }
  const length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4
  for (let i = length - 1, rest = code; i > 0; i--, rest >>= 6) out[at + i] = 0x80 | (rest & 0x3f)
  out[at] = ((0xf00 >> length) & 0xff) | (code >> (6 * (length - 1)))
  return at + length
}

/**
 * The bytes as a byte-level encoding takes them: U+FFFD for each byte that is no character, the shortest form for overlong ones. What is
 * left is UTF-8, but for surrogates.
 */
export function loosenedBytes(bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(3 * bytes.length)
  let end = 0
  for (let at = 0; at < bytes.length; ) {
    const length = looseLength(bytes, at)
    end = writeCodePoint(out, end, length > 0 ? codePointAt(bytes, at, length) : 0xfffd)
    at += length || 1
  }
  return out.subarray(0, end)
}

/** A text of the same length in bytes, with U+E000 for surrogates: no pattern takes the two for different. */
export function textForPatterns(loosened: Uint8Array): string {
  const bytes = loosened.slice()
  for (let at = bytes.indexOf(0xed); at >= 0; at = bytes.indexOf(0xed, at + 1)) {
    // a lead byte is never part of another character
    if (bytes[at + 1]! > 0x9f) bytes.set([0xee, 0x80, 0x80], at)
  }
  return strict.decode(bytes)
}

/** Valid text and what is none, in order, as an encoding over characters takes them: a lead byte takes what follows with it, whatever it is. */
export function* stretches(bytes: Uint8Array): Generator<string | Uint8Array> {
  let start = 0
  for (let at = 0; at < bytes.length; ) {
    const valid = validLength(bytes, at)
    if (valid > 0) {
      at += valid
      continue
    }
    if (at > start) yield strict.decode(bytes.subarray(start, at))
    const lead = bytes[at]!
    const end = Math.min(bytes.length, at + (lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4))
    yield bytes.subarray(at, end)
    at = start = end
  }
  if (start < bytes.length) yield strict.decode(bytes.subarray(start))
}

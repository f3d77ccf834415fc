/**
 * Items of a stream as bytes: u32 position of the first, u16 how many; of each i32 token, f64 log probability (NaN: none), u32 bytes of its text, u8 how
 * many top tokens (255: none), the text, and of each top token i32 and f64. All little-endian.
 */
import type { TokenItem } from '../generation/items.js'
import { protocolError } from './frames.js'

const [headBytes, itemBytes, topBytes] = [6, 17, 12] as const
const noTop = 255

/** Whether an item has nothing that goes as an array of its own. */
export const isPlain = (item: TokenItem): boolean => !('logits' in item) && !('routing' in item)

export function encodeTokens(from: number, items: readonly TokenItem[]): Buffer {
  const texts = items.map(({ text }) => Buffer.from(text))
  const length = items.reduce<number>(
    (sum, { topLogprobs }, i) => sum + itemBytes + texts[i]!.length + topBytes * (topLogprobs?.length ?? 0),
    headBytes
  )
  const bytes = Buffer.allocUnsafe(length)
  bytes.writeUInt32LE(from, 0)
  bytes.writeUInt16LE(items.length, 4)
  let at = headBytes
  for (const [i, { token, logprob, topLogprobs }] of items.entries()) {
    const text = texts[i]!
    bytes.writeInt32LE(token, at)
    bytes.writeDoubleLE(logprob ?? Number.NaN, at + 4)
    bytes.writeUInt32LE(text.length, at + 12)
    bytes.writeUInt8(topLogprobs?.length ?? noTop, at + 16)
    at += itemBytes
    at += text.copy(bytes, at)
    for (const top of topLogprobs ?? []) {
      bytes.writeInt32LE(top.token, at)
      bytes.writeDoubleLE(top.logprob, at + 4)
      at += topBytes
    }
  }
  return bytes
}

/** Throws WORKER_PROTOCOL_ERROR. */
export function decodeTokens(bytes: Buffer): { from: number; items: TokenItem[] } {
  const reader = new Reader(bytes)
  const [from, count] = [reader.u32(), reader.u16()]
  const items: TokenItem[] = []
  for (let i = 0; i < count; i++) {
    const [token, logprob, textBytes, tops] = [reader.i32(), reader.f64(), reader.u32(), reader.u8()]
    const item: TokenItem = { text: reader.text(textBytes), token }
    if (!Number.isNaN(logprob)) item.logprob = logprob
    if (tops !== noTop)
      item.topLogprobs = Array.from({ length: tops }, () => ({ token: reader.i32(), logprob: reader.f64() }))
    items.push(item)
  }
  if (reader.left > 0) throw protocolError('more bytes than items', 2, bytes.length)
  return { from, items }
}

class Reader {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get left(): number {
    return this.#bytes.length - this.#at
  }

  u8 = (): number => this.#bytes.readUInt8(this.#step(1))
  u16 = (): number => this.#bytes.readUInt16LE(this.#step(2))
  u32 = (): number => this.#bytes.readUInt32LE(this.#step(4))
  i32 = (): number => this.#bytes.readInt32LE(this.#step(4))
  f64 = (): number => this.#bytes.readDoubleLE(this.#step(8))
  text = (length: number): string => {
    const at = this.#step(length)
    return this.#bytes.toString('utf8', at, at + length)
  }

  #step(bytes: number): number {
    if (bytes > this.left) throw protocolError('items that are cut off', 2, this.#bytes.length)
    const at = this.#at
    this.#at += bytes
    return at
  }
}

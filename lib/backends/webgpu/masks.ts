/** Masks of TierSets as the route shader reads them. */
import { maskWords } from './launches/route.js'

/** Bits of a mask [layers][experts] (0 = disabled): `maskWords(experts)` words a layer, expert e being bit e % 32 of word e / 32. */
export function maskBits(enabled: Uint8Array, experts: number): Uint32Array<ArrayBuffer> {
  const words = maskWords(experts)
  const out = new Uint32Array((enabled.length / experts) * words)
  for (const [at, on] of enabled.entries()) {
    const expert = at % experts
    if (on !== 0) out[Math.floor(at / experts) * words + (expert >>> 5)]! |= 1 << (expert & 31)
  }
  return out
}

// Seeded mutations of bytes, of texts and of JSON values. The same seed and number give the same input, on every machine.

/** A generator of choices (splitmix style) for one input. */
export class Draw {
  #state
  constructor(seed, number) {
    this.#state = (Math.imul(seed ^ 0x5bf03635, 0x9e3779b1) ^ Math.imul(number + 1, 0x85ebca77)) >>> 0
  }
  /** A 32-bit word. */
  word() {
    this.#state = (this.#state + 0x9e3779b9) >>> 0
    let x = this.#state
    x = Math.imul(x ^ (x >>> 16), 0x21f0aaad)
    x = Math.imul(x ^ (x >>> 15), 0x735a2d97)
    return (x ^ (x >>> 15)) >>> 0
  }
  /** 0 to n - 1. */
  below(n) {
    return this.word() % Math.max(1, n)
  }
  chance(p) {
    return this.word() < p * 2 ** 32
  }
  pick(list) {
    return list[this.below(list.length)]
  }
  /** Mostly small, now and then up to `most`. */
  size(most) {
    return this.below(2 ** this.below(Math.ceil(Math.log2(most + 1)) + 1)) % (most + 1)
  }
}

const interesting = [
  0n,
  1n,
  7n,
  127n,
  128n,
  255n,
  65535n,
  2n ** 31n - 1n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 53n,
  2n ** 63n,
  2n ** 64n - 1n
]

/** Most bytes of a mutated input. */
export const mostBytes = 1 << 16

function writeNumber(draw, bytes, at) {
  const width = draw.pick([1, 2, 4, 8])
  const old = bytes.subarray(at, at + width)
  if (old.length < width) return
  let value = 0n
  for (let i = width - 1; i >= 0; i--) value = (value << 8n) | BigInt(old[i])
  const near = draw.pick([value - 1n, value + 1n, value * 2n, value / 2n, ~value])
  let next = BigInt.asUintN(8 * width, draw.chance(0.5) ? draw.pick(interesting) : near)
  for (let i = 0; i < width; i++, next >>= 8n) old[i] = Number(next & 0xffn)
}

const splice = (bytes, from, to, between) => Buffer.concat([bytes.subarray(0, from), between, bytes.subarray(to)])

const byteMutations = [
  (draw, bytes, at) => {
    bytes[at] ^= 1 << draw.below(8)
    return bytes
  },
  (draw, bytes, at) => {
    bytes[at] = draw.below(256)
    return bytes
  },
  (draw, bytes, at) => {
    writeNumber(draw, bytes, at)
    return bytes
  },
  (draw, bytes, at) => splice(bytes, at, at + 1 + draw.size(bytes.length - at), Buffer.alloc(0)),
  (draw, bytes, at) => splice(bytes, at, at, Buffer.alloc(1 + draw.size(256), draw.below(256))),
  (draw, bytes, at) => {
    const part = bytes.subarray(at, at + 1 + draw.size(bytes.length - at))
    return splice(bytes, at, at, part)
  },
  // The same part very often: what is quadratic shows.
  (draw, bytes, at) => {
    const part = bytes.subarray(at, at + 1 + draw.size(Math.min(64, bytes.length - at)))
    const times = Math.floor(draw.size(mostBytes) / part.length)
    return splice(bytes, at, at, Buffer.concat(Array.from({ length: times }, () => part)))
  },
  (draw, bytes) => bytes.subarray(0, draw.below(bytes.length)),
  (draw, bytes, at, { words }) => (words ? splice(bytes, at, at, Buffer.from(draw.pick(words))) : bytes),
  (draw, bytes, at, { samples }) => {
    const other = draw.pick(samples)
    const from = draw.below(other.length)
    return splice(
      bytes,
      at,
      draw.chance(0.5) ? at : bytes.length,
      other.subarray(from, from + 1 + draw.size(other.length))
    )
  }
]

/** One of the samples with up to eight changes. `words`: tokens of the language to be put in. */
export function mutatedBytes(draw, samples, words) {
  let bytes = Buffer.from(draw.pick(samples))
  for (let left = 1 + draw.size(7); left > 0 && bytes.length > 0; left--) {
    bytes = Buffer.from(draw.pick(byteMutations)(draw, bytes, draw.below(bytes.length), { samples, words }))
    if (bytes.length > mostBytes) bytes = bytes.subarray(0, mostBytes)
  }
  return bytes
}

/** The same of texts; bytes that are no UTF-8 become U+FFFD. */
export const mutatedText = (draw, samples, words) =>
  mutatedBytes(
    draw,
    samples.map((text) => Buffer.from(text)),
    words
  ).toString()

function nested(draw) {
  let value = draw.chance(0.5) ? [] : {}
  for (let depth = draw.size(5000); depth > 0; depth--) value = depth % 2 ? [value] : { a: value }
  return value
}

const odd = [
  () => null,
  () => true,
  () => '',
  (draw) => 'x'.repeat(draw.size(1 << 14)),
  () => '\u0000\ud800\u{1f600}\u202e',
  () => '__proto__',
  (draw) => `0-${draw.size(9999)}`,
  (draw) => draw.pick(['NaN', '1e999', '2GiB', '-1', '0x10', 'rest', '..', '/etc/passwd', '%00', 'http://[::1', '😀']),
  (draw) => draw.pick([-1, -0, 0, 0.5, 1, 2, 255, 4096, 65536, 2 ** 31, 2 ** 32, 2 ** 53, 1e21, 1e308, -1e308]),
  () => [],
  () => ({}),
  () => JSON.parse('{"__proto__": {"polluted": true}, "constructor": {"prototype": {"polluted": true}}}'),
  nested
]

/** Of what cannot be copied, as it has thousands of levels, nothing. */
function copyOf(value) {
  try {
    return structuredClone(value)
  } catch {
    return null
  }
}

/** Most characters of a mutated value, about: items that are there over and over, four times in a row, would fill the memory. */
const mostCharacters = 1 << 22

/** Every place of a value that can be replaced: [holder, key]. Throws RangeError where the value is too large, or has too many levels. */
function placesIn(root) {
  const places = []
  let left = mostCharacters
  const look = (value) => {
    left -= typeof value === 'string' ? value.length : 1
    if (typeof value !== 'object' || value === null) return
    for (const key of Object.keys(value)) {
      left -= key.length
      if (left < 0) throw new RangeError('the value is too large')
      places.push([value, key])
      look(value[key])
    }
  }
  look(root)
  return places
}

const valueMutations = [
  (draw, [holder, key]) => {
    holder[key] = draw.pick(odd)(draw)
  },
  (_, [holder, key]) => {
    if (Array.isArray(holder)) holder.splice(Number(key), 1)
    else delete holder[key]
  },
  (draw, [holder, key]) => {
    const value = holder[key]
    if (typeof value === 'number')
      holder[key] = draw.pick([value + 1, value - 1, -value, value * 2, value / 2, value * 1e9])
    else if (typeof value === 'string') holder[key] = mutatedText(draw, [value])
    else holder[key] = draw.pick(odd)(draw)
  },
  // Items over and over, or fields that nobody knows.
  (draw, [holder, key]) => {
    const times = draw.size(2000)
    if (Array.isArray(holder)) holder.push(...Array.from({ length: times }, () => holder[key]))
    else for (let i = 0; i < times; i++) holder[`${key}${i}`] = i
  },
  (draw, place, places) => {
    const other = draw.pick(places)
    place[0][place[1]] = copyOf(other[0][other[1]])
  },
  (draw, [holder, key]) => {
    holder[key] = draw.chance(0.5) ? [holder[key]] : { [key]: holder[key] }
  }
]

/** A copy of a value of JSON with up to four changes. Throws RangeError where it became too large. */
export function mutatedValue(draw, value) {
  const root = { root: copyOf(value) }
  let places = placesIn(root)
  for (let left = 1 + draw.size(3); left > 0 && places.length > 0; left--) {
    // The whole value is seldom the place.
    const place = places.length > 1 && draw.chance(0.95) ? places[1 + draw.below(places.length - 1)] : places[0]
    draw.pick(valueMutations)(draw, place, places)
    places = placesIn(root)
  }
  return root.root ?? null
}

/**
 * The expert cache as its headers say, written to be read: maps, sorted lists and a fresh computation of everything at every decision.
 * Policies `lru`, `lfu`, `mix` and `adaptive`; the decisions are those of simulateCache, word for word.
 */
import type { CacheCounts } from '../../lib/native.js'
import { afterLayer, traceKinds, traceRecords } from '../../lib/tiers/trace.js'

const NONE = 0xffffffff
const NEVER = 2 ** 30
const SHIFTS = [0, 2, 4, 7, 10]
const TERMS = SHIFTS.length + 1
const START = [0.2, 0.2, 0.2, 0.2, 0.2, 0]

export interface NaiveOptions {
  layers: number
  experts: number
  slots: number
  recordedSlots: number
  policy: 'lru' | 'lfu' | 'mix' | 'adaptive'
  seed: number
  mix: readonly number[]
}

interface Entry {
  id: number
  layer: number
  slot: number | undefined
  references: number
  pinned: boolean
  demoted: boolean
  expected: boolean
  /** Turns of the layer in which it was used. */
  usedAt: number[]
  rates: number[]
}

interface Layer {
  turns: number
  step: number
  weights: readonly number[]
  products: number[][]
  sums: number[]
}

type Item = { entry: Entry; slot: number; admitted: boolean; evicted: number }

function mix32(value: number): number {
  let x = value >>> 0
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d)
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b)
  return (x ^ (x >>> 16)) >>> 0
}
const tieOf = (seed: number, entry: number): number => mix32(mix32((seed ^ 0x9e3779b9) >>> 0) ^ entry) >>> 4

const square = (n: number): number[][] => Array.from({ length: n }, () => new Array<number>(n).fill(0))

/** (products + ridge · I) · x = sums + ridge · prior. */
function leastSquares(products: number[][], sums: number[], ridge: number, prior: readonly number[]): number[] {
  const l = square(TERMS)
  for (let i = 0; i < TERMS; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = products[i]![j]! + (i === j ? ridge : 0)
      for (let k = 0; k < j; k++) sum -= l[i]![k]! * l[j]![k]!
      l[i]![j] = i === j ? Math.sqrt(Math.max(sum, 1e-9)) : sum / l[j]![j]!
    }
  }
  const x = sums.map((sum, i) => sum + ridge * prior[i]!)
  for (let i = 0; i < TERMS; i++) {
    for (let k = 0; k < i; k++) x[i]! -= l[i]![k]! * x[k]!
    x[i]! /= l[i]![i]!
  }
  for (let i = TERMS - 1; i >= 0; i--) {
    for (let k = i + 1; k < TERMS; k++) x[i]! -= l[k]![i]! * x[k]!
    x[i]! /= l[i]![i]!
  }
  return x
}

export class NaiveCache {
  readonly #options: NaiveOptions
  readonly #entries: Entry[] = []
  readonly #layers: Layer[]
  #slots: number
  #step = 1
  #lastLayer: number | undefined
  #foretoldTurns = 0
  #waiting: Entry[] = []
  #parts: Item[][] = []
  #computed = 0
  readonly decisions: number[] = []
  readonly counts: CacheCounts = { uses: 0, hits: 0, misses: 0, evictions: 0, prefetches: 0, waves: 0 }

  constructor(options: NaiveOptions) {
    this.#options = options
    this.#slots = options.slots
    this.#layers = Array.from({ length: options.layers }, () => ({
      turns: 0,
      step: 0,
      weights: options.policy === 'mix' ? options.mix : START,
      products: square(TERMS),
      sums: new Array<number>(TERMS).fill(0)
    }))
    for (let layer = 0; layer < options.layers; layer++) for (let e = 0; e < options.experts; e++) this.#addEntry(layer)
  }

  /** Plays a whole trace. */
  play(words: Uint32Array): void {
    for (const record of traceRecords(words)) {
      const [first = 0, second = 0] = record.words
      if (record.kind === traceKinds.prefetch) {
        this.#prefetch(first, [...record.words.subarray(1)])
        continue
      }
      this.#finish()
      if (record.kind === traceKinds.step) this.#step++
      if (record.kind === traceKinds.layer) this.#begin(first, [...record.words.subarray(1)])
      if (record.kind === traceKinds.pin) this.#entries[first]!.pinned = second === 1
      if (record.kind === traceKinds.demote) this.#entries[first]!.demoted = second === 1
      if (record.kind === traceKinds.drop) this.#loseSlot(this.#entries[first]!)
      if (record.kind === traceKinds.version) this.#addEntry(first)
      if (record.kind === traceKinds.resize && this.#options.slots === this.#options.recordedSlots) this.#resize(first)
    }
    this.#finish()
  }

  #addEntry(layer: number): void {
    this.#entries.push({
      id: this.#entries.length,
      layer,
      slot: undefined,
      references: 0,
      pinned: false,
      demoted: false,
      expected: false,
      usedAt: [],
      rates: [0, 0, 0, 0, 0, 1]
    })
  }

  #resident(): Entry[] {
    return this.#entries.filter((entry) => entry.slot !== undefined)
  }

  /** Longer = evicted sooner. */
  #wait(entry: Entry): number {
    const { policy, layers } = this.#options
    const layer = this.#layers[entry.layer]!
    if (policy === 'lfu') return NEVER - entry.usedAt.length
    if (policy === 'lru') return entry.usedAt.length ? layer.turns - entry.usedAt.at(-1)! : NEVER
    let probability = 0
    for (let i = 0; i < TERMS; i++) probability += layer.weights[i]! * entry.rates[i]!
    const estimate = layer.turns ? Math.trunc(65536 / Math.min(Math.max(probability, 1e-4), 1)) : NEVER
    // where experts are read ahead, a use in the first fifth of the layers counts twice
    const early = this.#foretoldTurns > 0 && entry.layer < Math.floor((layers + 2) / 5)
    const turns = early ? Math.trunc(estimate / 2) : estimate
    if (this.#lastLayer === undefined) return turns
    // the next layer's turn comes first, the last one's after all others
    const distance = ((entry.layer - this.#lastLayer - 1 + 2 * layers) % layers) + 1
    return turns + Math.trunc((4 * 65536) / layers) * distance
  }

  /** What goes first, first. */
  #victims(): Entry[] {
    const order = (entry: Entry) => (entry.demoted ? 0 : entry.expected ? 2 : 1)
    const tie = (entry: Entry) => tieOf(this.#options.seed, entry.id)
    return this.#resident()
      .filter((entry) => entry.references === 0 && !entry.pinned)
      .sort((a, b) => order(a) - order(b) || this.#wait(b) - this.#wait(a) || tie(a) - tie(b) || a.id - b.id)
  }

  #loseSlot(entry: Entry): void {
    entry.slot = undefined
    entry.references = 0
  }

  #evict(entry: Entry): number {
    this.#loseSlot(entry)
    this.counts.evictions++
    return entry.id
  }

  #takeSlot(entry: Entry): number {
    const taken = new Set(this.#resident().map(({ slot }) => slot))
    let slot = 0
    while (taken.has(slot)) slot++
    entry.slot = slot
    return slot
  }

  #use(entry: Entry): void {
    const { turns } = this.#layers[entry.layer]!
    if (entry.usedAt.at(-1) === turns) return
    entry.usedAt.push(turns)
    for (const [m, shift] of SHIFTS.entries()) entry.rates[m]! += Math.max(2 ** -shift, 1 / (turns + 1))
  }

  /** A turn of the layer begins. */
  #turn(index: number, wanted: Entry[]): void {
    const layer = this.#layers[index]!
    this.#lastLayer = index
    layer.turns++
    if (this.#foretoldTurns > 0) this.#foretoldTurns--
    const own = this.#entries.filter((entry) => entry.layer === index)
    const learning = this.#options.policy === 'adaptive' && this.#slots < this.#entries.length
    if (learning) {
      layer.products = layer.products.map((row) => row.map((sum) => sum * 0.999))
      layer.sums = layer.sums.map((sum) => sum * 0.999)
    }
    for (const entry of own) {
      entry.expected = false
      for (let i = 0; learning && i < TERMS; i++) {
        for (let j = 0; j < TERMS; j++) layer.products[i]![j]! += entry.rates[i]! * entry.rates[j]!
        if (wanted.includes(entry)) layer.sums[i]! += entry.rates[i]!
      }
      for (const [m, shift] of SHIFTS.entries())
        entry.rates[m]! -= entry.rates[m]! * Math.max(2 ** -shift, 1 / (layer.turns + 1))
    }
    if (learning && layer.turns % 16 === 1) {
      const total = <T>(of: (layer: Layer) => T, add: (a: T, b: T) => T) => this.#layers.map(of).reduce(add)
      const products = total(
        (one) => one.products,
        (a, b) => a.map((row, i) => row.map((sum, j) => sum + b[i]![j]!))
      )
      const sums = total(
        (one) => one.sums,
        (a, b) => a.map((sum, i) => sum + b[i]!)
      )
      layer.weights = leastSquares(layer.products, layer.sums, 2000, leastSquares(products, sums, 1, START))
    }
  }

  #begin(index: number, ids: number[]): void {
    if (ids.length === 0) return // no turn
    const wanted = ids.map((id) => this.#entries[id]!)
    const layer = this.#layers[index]!
    if (layer.step !== this.#step) {
      layer.step = this.#step
      this.#turn(index, wanted)
    }
    for (const entry of wanted) this.#use(entry)
    this.#waiting = wanted
    this.#computed = 0
    const wave = this.#wave()
    if (wave.length === 0) return
    const half = this.#waiting.length > 0 ? Math.ceil(wave.length / 2) : wave.length
    this.#parts = [wave.slice(0, half), wave.slice(half)].filter((part) => part.length > 0)
  }

  /** The next experts that can be in memory at once. */
  #wave(): Item[] {
    if (this.#waiting.length === 0) return []
    const wave: Item[] = []
    const missing = this.#waiting.filter((entry) => entry.slot === undefined)
    for (const entry of this.#waiting) {
      if (entry.slot === undefined) continue
      entry.references++
      wave.push({ entry, slot: entry.slot, admitted: false, evicted: NONE })
    }
    const hits = wave.length
    this.#waiting = []
    for (const entry of missing) {
      const full = this.#resident().length >= this.#slots
      const victim = full ? this.#victims()[0] : undefined
      if (full && !victim) {
        this.#waiting.push(entry)
        continue
      }
      const evicted = victim ? this.#evict(victim) : NONE
      wave.push({ entry, slot: this.#takeSlot(entry), admitted: true, evicted })
      entry.references++
    }
    this.counts.uses += wave.length
    this.counts.hits += hits
    this.counts.misses += wave.length - hits
    if (wave.length > 0) this.counts.waves++
    wave.sort((a, b) => a.entry.id - b.entry.id)
    for (const { entry, slot, admitted, evicted } of wave)
      this.decisions.push(admitted ? 1 : 0, entry.id, slot, evicted)
    return wave
  }

  /** The oldest part has been computed. */
  #advance(): void {
    for (const { entry, slot } of this.#parts.shift()!)
      if (entry.slot === slot && entry.references > 0) entry.references--
    this.#computed++
    const wave = this.#wave()
    if (wave.length > 0) this.#parts.push(wave)
  }

  #finish(): void {
    while (this.#parts.length > 0) this.#advance()
    this.#waiting = []
  }

  #prefetch(computed: number, ids: number[]): void {
    if (computed === afterLayer) this.#finish()
    while (this.#parts.length > 0 && this.#computed < computed) this.#advance()
    for (const id of ids) {
      const entry = this.#entries[id]!
      const { policy, layers } = this.#options
      if (policy === 'adaptive' && this.#layers[entry.layer]!.turns > 0) this.#foretoldTurns = 16 * layers
      if (entry.slot === undefined) {
        const full = this.#resident().length >= this.#slots
        const victim = full ? this.#victims()[0] : undefined
        if (full && !victim) continue
        const recent = victim && victim.usedAt.length > 0 && victim.usedAt.at(-1) === this.#layers[victim.layer]!.turns
        if (victim && !victim.demoted && (victim.expected || recent)) continue
        const evicted = victim ? this.#evict(victim) : NONE
        this.decisions.push(2, id, this.#takeSlot(entry), evicted)
        this.counts.prefetches++
      }
      entry.expected = true
    }
  }

  #resize(slots: number): void {
    this.#slots = slots
    const over = this.#resident().length - slots
    for (const victim of over > 0 ? this.#victims().slice(0, over) : [])
      this.decisions.push(3, NONE, NONE, this.#evict(victim))
    this.#slots = Math.max(slots, this.#resident().length)
  }
}

/**
 * Which tokens may come next. The tokens that stay inside of one rule depend on nothing around it, so they are found once for each place
 * in a rule; of the others only what is left when the rule has ended is looked at again.
 */
import type { Frame, State, Way } from './automaton.js'
import { Automaton, isDead } from './automaton.js'
import type { Grammar } from './grammar.js'
import type { TokenTrie } from './token-trie.js'

/** Ways times nodes that one mask may cost. A dearer one has fewer tokens than it could, the same ones every time. */
const mostCost = 3_000_000
const mostCostInside = 1_500_000
/** Bytes of the masks that are remembered. */
const mostBytes = 2 ** 26
/** What a state of the grammar takes, about. */
const stateBytes = 400

/** What a place in a rule says by itself. */
interface Inside {
  /** Tokens that may come, as far as the rule alone decides. */
  mask: Uint32Array
  /** Nodes with more below them where the rule may have ended. */
  exits: number[]
  cost: number
}

interface Found {
  mask: Uint32Array
  goesOn: boolean
}

export class Masks {
  readonly trie: TokenTrie
  readonly #words: number
  readonly #ends: readonly number[]
  #automaton: Automaton
  #inside = new Map<Frame, Inside>()
  #masks = new Map<State, Found>()
  #bytes = 0

  /** `vocab`: rows of the model's logits; `eosIds`: allowed where a text may end. */
  constructor(grammar: Grammar, trie: TokenTrie, vocab: number, eosIds: Iterable<number>) {
    this.trie = trie
    this.#words = Math.ceil(vocab / 32)
    this.#ends = [...eosIds].filter((id) => id < vocab)
    this.#automaton = new Automaton(grammar)
  }

  get start(): State {
    return this.#automaton.start
  }

  /** What is remembered, about. */
  get rememberedBytes(): number {
    const { grammar, bytes } = this.#automaton
    return this.#bytes + grammar.states.length * stateBytes + bytes
  }

  /** The state after a text's bytes; undefined where the text cannot go on so. */
  after(from: State, text: Uint8Array): State | undefined {
    const state = this.#current(from)
    const next = this.#stepped(state, text)
    if (next || state.ways.length === 1) return next
    // Of very many ways some are left out on the way, and a mask has what each of them takes alone.
    for (const way of state.ways) {
      const alone = this.#stepped(this.#automaton.state([way], false), text)
      if (alone) return alone
    }
    return undefined
  }

  #stepped(from: State, text: Uint8Array): State | undefined {
    let state = from
    const { classOf } = this.#automaton.grammar
    for (const byte of text) {
      state = this.#automaton.step(state, classOf[byte]!)
      if (isDead(state)) return undefined
    }
    return state
  }

  /** A bit for each token that may come next. Remembered: not to be changed. */
  of(from: State): Uint32Array {
    return this.#found(from).mask
  }

  /** Whether there is such a token, but those that end a text. */
  goesOn(from: State): boolean {
    return this.#found(from).goesOn
  }

  #found(from: State): Found {
    const state = this.#clamped(this.#current(from))
    const known = this.#masks.get(state)
    if (known) return known
    const mask = new Uint32Array(this.#words)
    let cost = 0
    for (const way of state.ways) {
      if (cost >= mostCost) break
      const inside = this.#insideOf(way)
      for (let i = 0; i < mask.length; i++) mask[i]! |= inside.mask[i]!
      cost += inside.cost
      if (!way.around || inside.exits.length === 0) continue
      const outside = this.#automaton.after(way)
      for (const exit of inside.exits) {
        if (cost >= mostCost) break
        cost += this.#walk(exit + 1, this.trie.ends[exit]!, outside, mask)
      }
    }
    const found = { mask, goesOn: mask.some((word) => word !== 0) }
    if (state.complete) for (const id of this.#ends) mask[id >> 5]! |= 1 << (id & 31)
    this.#keep(mask)
    this.#masks.set(state, found)
    return found
  }

  /** The bytes that may come next. */
  bytes(from: State): number[] {
    const { grammar } = this.#automaton
    const state = this.#current(from)
    return Array.from(grammar.classOf.keys()).filter(
      (byte) => !isDead(this.#automaton.step(state, grammar.classOf[byte]!))
    )
  }

  #insideOf(way: Way): Inside {
    const { frame } = way
    let inside = this.#inside.get(frame)
    if (!inside) {
      const mask = new Uint32Array(this.#words)
      const exits: number[] = []
      const alone = this.#automaton.state([this.#automaton.way(frame, undefined)], false)
      const cost = this.#walk(0, this.trie.nodes, alone, mask, exits)
      inside = { mask, exits, cost }
      this.#keep(mask)
      this.#inside.set(frame, inside)
    }
    return inside
  }

  /**
   * Sets the bits of the tokens of the nodes from `from` to `to` (all that is below one node) that go on from a state; collects nodes with more
   * below them where the state is complete.
   */
  #walk(from: number, to: number, start: State, mask: Uint32Array, exits?: number[]): number {
    const { bytes, depths, ends, tokens, twins } = this.trie
    const automaton = this.#automaton
    const { classOf } = automaton.grammar
    if (from >= to) return 0
    const base = depths[from]!
    const path: State[] = [start]
    let cost = 0
    for (let node = from; node < to && cost < mostCostInside; ) {
      const depth = depths[node]! - base
      const before = path[depth]!
      cost += 1 + before.ways.length
      const byteClass = classOf[bytes[node]!]!
      const state = before.next[byteClass] ?? automaton.step(before, byteClass)
      if (isDead(state)) {
        node = ends[node]!
        continue
      }
      for (let token = tokens[node]!; token >= 0; token = twins[token]!) mask[token >> 5]! |= 1 << (token & 31)
      if (exits && state.complete && ends[node]! > node + 1) exits.push(node)
      path[depth + 1] = state
      node = state.ways.length > 0 ? node + 1 : ends[node]!
    }
    return cost
  }

  /** A state in which counts that no token can reach are the same: it has the same mask. */
  #clamped(state: State): State {
    const most = this.trie.longest + 1
    const isFar = (count: number): boolean => count > most && count < Number.POSITIVE_INFINITY
    const far = ({ frame, around }: Way): boolean =>
      isFar(frame.least) || isFar(frame.most) || (around !== undefined && far(around))
    if (!state.ways.some(far)) return state
    const near = ({ frame, around }: Way): Way => {
      const clamp = (count: number): number => (isFar(count) ? most : count)
      const own = this.#automaton.frame(frame.state, frame.room, clamp(frame.least), clamp(frame.most))
      return this.#automaton.way(own, around && near(around))
    }
    return this.#automaton.state(state.ways.map(near), state.complete)
  }

  /** The same state, of the automaton of now: it begins anew where more is remembered than should be. */
  #current(state: State): State {
    if (this.#automaton.full || this.#bytes >= mostBytes) {
      this.#automaton = new Automaton(this.#automaton.grammar)
      this.#inside = new Map()
      this.#masks = new Map()
      this.#bytes = 0
    }
    return state.owner === this.#automaton ? state : this.#automaton.adopted(state)
  }

  #keep({ byteLength }: Uint32Array): void {
    this.#bytes += byteLength
  }
}

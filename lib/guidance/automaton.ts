/**
 * Follows a grammar byte by byte. A state is all the ways in which the bytes so far may have been meant, each with what is still open
 * around it; states are made when they are first met and remembered, so that most bytes cost one look into a table.
 */
import type { Call, Grammar, GrammarState } from './grammar.js'
import { depthNeeded } from './grammar.js'

/** Ways that are followed at once; further ones are left out, and each that is kept can end. */
const mostWays = 1024
/** Bytes of what is remembered. */
const mostBytes = 2 ** 25
/** What its parts take, with their places in the tables, about; a state also for each of its ways. */
const bytesOf = { state: 400, wayOfState: 16, frame: 180, way: 90, waysAround: 200 }

/** A place in a rule: its depth left, and what is still to be counted. */
export interface Frame {
  id: number
  state: number
  room: number
  least: number
  most: number
}

/** One way: a place in a rule, and the places where the rules around it go on. */
export interface Way {
  id: number
  frame: Frame
  /** Undefined: when this rule ends, the text does. */
  around: Way | undefined
}

export interface State {
  /** What made it: the numbers of its ways are of there. */
  owner: Automaton | undefined
  ways: readonly Way[]
  /** The text may end here. */
  complete: boolean
  /** By class of byte. */
  next: (State | undefined)[]
}

const dead: State = { owner: undefined, ways: [], complete: false, next: [] }

export const isDead = (state: State): boolean => state.ways.length === 0 && !state.complete

export class Automaton {
  readonly grammar: Grammar
  /** Those that count nothing by number, the others by text. */
  readonly #frames = new Map<number | string, Frame>()
  /** By the way around, then by frame. */
  readonly #ways = new Map<number, Map<number, Way>>()
  /** Those of one way by number, the others by text. */
  readonly #states = new Map<number | string, State>()
  #wayCount = 0
  #bytes = 0
  #start: State | undefined

  constructor(grammar: Grammar) {
    this.grammar = grammar
  }

  get start(): State {
    const { rules, root } = this.grammar
    const { start, least, most, height } = rules[root]!
    this.#start ??= this.#from([[this.frame(start, height, least, most), undefined]])
    return this.#start
  }

  /** What is remembered, about. */
  get bytes(): number {
    return this.#bytes
  }

  /** More is remembered than should be: another automaton goes on from here (`adopted`). */
  get full(): boolean {
    return this.#bytes >= mostBytes
  }

  /** A state of another automaton of the same grammar, as one of this. */
  adopted({ ways, complete }: State): State {
    const own = (way: Way): Way => {
      const { state, room, least, most } = way.frame
      return this.way(this.frame(state, room, least, most), way.around && own(way.around))
    }
    return this.state(ways.map(own), complete)
  }

  /** The state after one byte more. */
  step(state: State, byteClass: number): State {
    const known = state.next[byteClass]
    if (known) return known
    const { states, byteOf } = this.grammar
    const byte = byteOf[byteClass]!
    const places: [Frame, Way | undefined][] = []
    for (const { frame, around } of state.ways) {
      for (const edge of states[frame.state]!.edges) {
        if (edge.bytes[byte] === 1 && this.#mayGo(frame, edge)) places.push([this.#at(frame, edge), around])
      }
    }
    const next = this.#from(places)
    state.next[byteClass] = next
    return next
  }

  /** Where the rules around a way go on when its own ends here. */
  after({ around }: Way): State {
    return around ? this.#from([[around.frame, around.around]]) : this.state([], true)
  }

  frame(state: number, room: number, least: number, most: number): Frame {
    const counts = least > 0 || most < Number.POSITIVE_INFINITY
    const key = counts ? `${state} ${room} ${least} ${most}` : state * 128 + room
    let frame = this.#frames.get(key)
    if (!frame) {
      frame = { id: this.#frames.size, state, room, least, most }
      this.#frames.set(key, frame)
      this.#bytes += bytesOf.frame
    }
    return frame
  }

  way(frame: Frame, around: Way | undefined): Way {
    const key = around?.id ?? -1
    let ways = this.#ways.get(key)
    if (!ways) {
      ways = new Map()
      this.#ways.set(key, ways)
      this.#bytes += bytesOf.waysAround
    }
    let way = ways.get(frame.id)
    if (!way) {
      way = { id: this.#wayCount++, frame, around }
      ways.set(frame.id, way)
      this.#bytes += bytesOf.way
    }
    return way
  }

  /** Depth that rules run from a place may take. */
  #roomInside({ state, room }: Frame): number {
    const { states, rules } = this.grammar
    return room - (rules[states[state]!.rule]!.container ? 1 : 0)
  }

  /** What it has counted allows the step, and its rule can still end after it. */
  #mayGo(frame: Frame, { to, counts, enough }: Omit<Call, 'rule'>): boolean {
    if ((enough && frame.least > 0) || (counts && frame.most === 0)) return false
    return this.grammar.states[to]!.need <= this.#roomInside(frame)
  }

  /** A frame's rule after a step. */
  #at({ room, least, most }: Frame, { to, counts }: Omit<Call, 'rule'>): Frame {
    if (!counts) return this.frame(to, room, least, most)
    return this.frame(to, room, Math.max(0, least - 1), most - 1)
  }

  /** All ways from some places to where a byte is taken. */
  #from(places: readonly (readonly [Frame, Way | undefined])[]): State {
    const { states, rules } = this.grammar
    const found: Way[] = []
    const seen = new Set<number>()
    let complete = false
    const open = [...places].reverse()
    for (let place = open.pop(); place && found.length < mostWays; place = open.pop()) {
      const [frame, around] = place
      const way = this.way(frame, around)
      if (seen.has(way.id)) continue
      seen.add(way.id)
      const { edges, calls, skips, accepting } = states[frame.state]!
      if (edges.length > 0) found.push(way)
      for (const to of skips) {
        const step = { to, counts: false, enough: false }
        if (this.#mayGo(frame, step)) open.push([this.#at(frame, step), around])
      }
      for (const call of calls) {
        const inside = this.#roomInside(frame)
        const called = rules[call.rule]!
        if (depthNeeded(called, states) > inside || !this.#mayGo(frame, call)) continue
        // Nothing is left to do there: what is around goes on.
        const back = isEnd(states[call.to]!) ? around : this.way(this.#at(frame, call), around)
        open.push([this.frame(called.start, Math.min(inside, called.height), called.least, called.most), back])
      }
      if (accepting) {
        if (around) open.push([around.frame, around.around])
        else complete = true
      }
    }
    return this.state(found, complete)
  }

  state(ways: readonly Way[], complete: boolean): State {
    if (ways.length === 0 && !complete) return dead
    const all = ways.length === 1 ? ways[0]!.id * 2 + (complete ? 1 : 0) : ways.map(({ id }) => id).join()
    const key = ways.length === 1 || !complete ? all : `${all}+`
    let state = this.#states.get(key)
    if (!state) {
      state = { owner: this, ways, complete, next: [] }
      // Above the limit states are made anew: slower, but no larger.
      if (!this.full) this.#states.set(key, state)
      this.#bytes += bytesOf.state + ways.length * bytesOf.wayOfState
    }
    return state
  }
}

const isEnd = ({ edges, calls, skips, accepting }: GrammarState): boolean =>
  accepting && edges.length === 0 && calls.length === 0 && skips.length === 0

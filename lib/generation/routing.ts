/** Routing capture and replay: which experts tokens were routed to, as plain arrays. */
import { createError } from '../errors/index.js'
import type { NativeSequence, RoutingShape, StepItem } from '../native.js'
import { describeValue, validationError } from '../validation.js'

/** The routes of consecutive positions of one sequence. */
export interface RoutingCapture {
  /** Positions captured. */
  tokens: number
  /** Layers that route, and experts per token in each. */
  layers: number
  k: number
  /** [tokens][layers][k]: expert ids, best first. */
  ids: Int32Array
  /** [tokens][layers][k]: their weights. */
  weights: Float32Array
}

export const isRoutingCapture = (value: unknown): value is RoutingCapture => {
  if (typeof value !== 'object' || value === null) return false
  const { tokens, layers, k, ids, weights } = value as Partial<RoutingCapture>
  return (
    [tokens, layers, k].every((n) => Number.isSafeInteger(n) && n! >= 0) &&
    ids instanceof Int32Array &&
    weights instanceof Float32Array
  )
}

/** A capture of `tokens` positions, all zero. RESOURCE_MEMORY_EXHAUSTED. */
function emptyCapture({ layers, k }: Pick<RoutingShape, 'layers' | 'k'>, tokens: number): RoutingCapture {
  const length = tokens * layers * k
  try {
    // One block for both: at a token per call the blocks are what it costs.
    const memory = new ArrayBuffer(length * (Int32Array.BYTES_PER_ELEMENT + Float32Array.BYTES_PER_ELEMENT))
    const weights = new Float32Array(memory, length * Int32Array.BYTES_PER_ELEMENT, length)
    return { tokens, layers, k, ids: new Int32Array(memory, 0, length), weights }
  } catch (cause) {
    const required = 8 * length
    const resourceInfo = { required, available: 0, current: null, limit: null, unit: 'bytes' as const }
    const text = `the routes of ${tokens} tokens take ${required} bytes, more than one block of memory can have here`
    const alternatives = [{ change: 'captureRouting', value: false, required: 0 }]
    throw createError('RESOURCE_MEMORY_EXHAUSTED', text, { resourceInfo, alternatives }, { cause })
  }
}

/** The routes of a sequence that captures them: read from it while it lives, from one copy of all of them afterwards. */
export class SequenceRoutes {
  readonly #sequence: NativeSequence
  readonly #shape: RoutingShape
  #copy: RoutingCapture | undefined
  #failure: unknown

  constructor(sequence: NativeSequence, shape: RoutingShape) {
    this.#sequence = sequence
    this.#shape = shape
  }

  /** Of `tokens` positions. RESOURCE_MEMORY_EXHAUSTED. */
  read(from: number, tokens: number): RoutingCapture {
    if (this.#failure) throw this.#failure
    if (this.#copy) {
      const { layers, k, ids, weights } = this.#copy
      const [begin, end] = [from * layers * k, (from + tokens) * layers * k]
      return { tokens, layers, k, ids: ids.subarray(begin, end), weights: weights.subarray(begin, end) }
    }
    const capture = emptyCapture(this.#shape, tokens)
    this.#sequence.copyRoutes(from, tokens, capture.ids, capture.weights)
    return capture
  }

  /** The sequence is about to be disposed. Where there is no memory for a copy, whoever reads is told. */
  keep(): void {
    try {
      this.#copy = this.read(0, this.#sequence.length)
    } catch (error) {
      this.#failure = error
    }
  }
}

/** Captures of consecutive positions as one. */
export function joinCaptures(parts: readonly RoutingCapture[]): RoutingCapture {
  const { layers, k } = parts[0]!
  if (parts.length === 1) return parts[0]!
  const joined = emptyCapture(
    { layers, k },
    parts.reduce((sum, { tokens }) => sum + tokens, 0)
  )
  let at = 0
  for (const { ids, weights } of parts) {
    joined.ids.set(ids, at)
    joined.weights.set(weights, at)
    at += ids.length
  }
  return joined
}

/** An own copy of a capture that is to be replayed. VALIDATION_ERROR where it is another shape's. */
export function checkReplay(method: string, replay: RoutingCapture, shape: RoutingShape): RoutingCapture {
  const { tokens, layers, k, ids, weights } = replay
  const length = tokens * shape.layers * shape.k
  if (layers !== shape.layers || k !== shape.k || ids.length !== length || weights.length !== length) {
    const found = `${describeValue(ids)} for ${tokens} tokens, ${layers} layers, ${k} experts each`
    const allowed = `[tokens][${shape.layers} layers][${shape.k} experts] of this model`
    throw validationError(method, 'replayRouting', found, allowed)
  }
  return { tokens, layers, k, ids: ids.slice(), weights: weights.slice() }
}

/** Adds to a step's item the routes that are replayed; positions beyond them are routed. An item holds one kind (`sameKind`). */
export function withReplay(item: StepItem, position: number, replay: RoutingCapture | undefined): void {
  if (!replay || position >= replay.tokens) return
  const choices = replay.layers * replay.k
  const [from, to] = [position * choices, (position + item.tokens.length) * choices]
  item.forcedIds = replay.ids.subarray(from, to)
  item.forcedWeights = replay.weights.subarray(from, to)
}

/** Tokens that one item may hold from a position on: not both replayed and routed ones. */
export const sameKind = (position: number, count: number, replay: RoutingCapture | undefined): number =>
  replay && position < replay.tokens ? Math.min(count, replay.tokens - position) : count

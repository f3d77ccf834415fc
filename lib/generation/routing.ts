/** Routing capture and replay: which experts tokens were routed to, as plain arrays. */
import type { RoutingShape, StepItem } from '../native.js'
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

/** A capture to be filled by steps of together `tokens` positions. */
export function emptyCapture({ layers, k }: RoutingShape, tokens: number): RoutingCapture {
  const length = tokens * layers * k
  // One block for both: at a token per step the blocks are what a capture costs.
  const memory = new ArrayBuffer(length * (Int32Array.BYTES_PER_ELEMENT + Float32Array.BYTES_PER_ELEMENT))
  const weights = new Float32Array(memory, length * Int32Array.BYTES_PER_ELEMENT, length)
  return { tokens, layers, k, ids: new Int32Array(memory, 0, length), weights }
}

/** Captures of consecutive positions as one. */
export function joinCaptures(parts: readonly RoutingCapture[]): RoutingCapture {
  const { layers, k } = parts[0]!
  if (parts.length === 1) return parts[0]!
  const joined = emptyCapture(
    { layers, k, experts: 0 },
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

/**
 * Adds to a step's item what captures and replays its routes. Positions beyond the replayed ones are routed; an item that holds both
 * kinds is cut to the first.
 */
export function withRouting(
  item: StepItem,
  position: number,
  replay: RoutingCapture | undefined,
  capture: RoutingCapture | undefined
): void {
  if (replay && position < replay.tokens) {
    const choices = replay.layers * replay.k
    const [from, to] = [position * choices, (position + item.tokens.length) * choices]
    item.forcedIds = replay.ids.subarray(from, to)
    item.forcedWeights = replay.weights.subarray(from, to)
  }
  if (capture) {
    item.captureIds = capture.ids
    item.captureWeights = capture.weights
  }
}

/** Tokens that one item may hold from a position on: not both replayed and routed ones. */
export const sameKind = (position: number, count: number, replay: RoutingCapture | undefined): number =>
  replay && position < replay.tokens ? Math.min(count, replay.tokens - position) : count

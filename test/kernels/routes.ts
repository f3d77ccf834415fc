/** Routes against an oracle, for both forms of routing. */
import type { Test } from 'tap'
import type { RouteRequest } from 'tiered-moe/kernels'
import { firstFar } from './close.js'
import type { Forms } from './forms.js'
import type { Memory } from './memory.js'
import type { RouteOracle } from './oracle-moe.js'
import { tolerances } from './tolerance.js'

interface Routing {
  /** The request in memory of its own, outputs included. */
  place(memory: Memory, request: RouteRequest): RouteRequest
  oracle(request: RouteRequest, token: number): RouteOracle
}

/** The bits of every form, and the naive twin against the oracle. */
export async function checkRoutes(test: Test, forms: Forms, label: string, request: RouteRequest, routing: Routing) {
  const { result } = await forms.sameBits('route', label, {
    request: (memory) => routing.place(memory, request),
    row: request.k
  })
  const tokens = request.positions.length
  const part = <T>(array: ArrayLike<T>, token: number) => {
    const row = array.length / tokens
    return Array.from(array).slice(token * row, (token + 1) * row)
  }
  for (let token = 0; token < tokens; token++) {
    const oracle = routing.oracle(request, token)
    test.same(part(result.ids, token), oracle.ids, `${label}: ids of token ${token}`)
    test.same(part(result.scores!, token), oracle.scores, `${label}: scores of token ${token}`)
    const wanted = oracle.weights.map((value) => ({ value, scale: 1, terms: request.experts }))
    test.equal(firstFar(part(result.weights, token), wanted, tolerances.routeWeights), undefined, `${label}: weights`)
  }
  return result
}

/** A flat request in memory of its own, outputs included. */
export const placeFlat = (memory: Memory, request: RouteRequest): RouteRequest => {
  const tokens = request.positions.length
  return {
    ...request,
    states: memory.input('states', request.states),
    router: memory.input('router', request.router),
    positions: memory.input('positions', request.positions),
    ...(request.seed && { seed: memory.input('seed', request.seed) }),
    ...(request.enabled && { enabled: memory.input('enabled', request.enabled) }),
    ...(request.maskOf && { maskOf: memory.input('maskOf', request.maskOf) }),
    ...(request.bias && { bias: memory.input('bias', request.bias) }),
    ...(request.selectionBias && { selectionBias: memory.input('selectionBias', request.selectionBias) }),
    ids: memory.ints('ids', tokens * request.k),
    weights: memory.floats('weights', tokens * request.k),
    scores: memory.longs('scores', tokens * request.experts)
  }
}

/** The items of a step, checked before anything is done. */
import { createError } from '../../../errors/index.js'
import type { RoutingShape, StepItem } from '../../../native.js'
import { validationError } from '../../../validation.js'
import { GpuSequence } from './sequence.js'

/** A part of a step, with the sequence that it is of. */
export interface Item extends StepItem {
  sequence: GpuSequence
  /** Its place among the items of the call. */
  index: number
}

export interface ItemLimits {
  vocab: number
  maxBatchTokens: number
  routing: RoutingShape
  checkEnabled(mask: Uint8Array): void
}

/** ROUTING_INVALID_EXPERT {token, slot, expertId, layer} where a forced route names no expert, or one twice. */
function checkForced(ids: Int32Array, count: number, { layers, experts, k }: RoutingShape): void {
  for (let at = 0; at < count * layers * k; at++) {
    const slot = at % k
    const expertId = ids[at] as number
    let valid = expertId >= 0 && expertId < experts
    for (let other = at - slot; other < at; other++) valid &&= ids[other] !== expertId
    if (valid) continue
    const token = Math.floor(at / (layers * k))
    const layer = Math.floor((at % (layers * k)) / k)
    throw createError(
      'ROUTING_INVALID_EXPERT',
      `the forced route of token ${token} names expert ${expertId} at choice ${slot} of layer ${layer}; valid are 0 to ${experts - 1}, each once`,
      { token, slot, expertId, layer }
    )
  }
}

function checkArrays(item: StepItem, at: string, { vocab, routing }: ItemLimits): void {
  const { tokens, logits, logitsOut, forcedIds, forcedWeights, sampling } = item
  const positions = logits === 'all' ? tokens.length : logits === 'last' ? 1 : 0
  if (logitsOut && logitsOut.length < positions * vocab) {
    throw validationError('step', `${at}.logitsOut`, logitsOut, `${positions * vocab} floats`)
  }
  if (sampling && logits === 'none') throw validationError('step', `${at}.sampling`, logits, 'logits other than none')
  const choices = tokens.length * routing.layers * routing.k
  if ((forcedIds === undefined) !== (forcedWeights === undefined)) {
    throw validationError('step', at, forcedIds, 'ids and weights of a route together')
  }
  if (!forcedIds || !forcedWeights) return
  if (forcedIds.length < choices || forcedWeights.length < choices) {
    throw validationError('step', `${at}.forcedIds`, forcedIds, `${choices} choices`)
  }
  checkForced(forcedIds, tokens.length, routing)
}

/** VALIDATION_ERROR, ROUTING_INVALID_EXPERT, ROUTING_TOO_FEW_EXPERTS, CONTEXT_LENGTH_EXCEEDED. */
export function checkItems(items: readonly StepItem[], limits: ItemLimits): Item[] {
  const { vocab, maxBatchTokens } = limits
  const seen = new Set<GpuSequence>()
  const pool = (items[0]?.sequence as GpuSequence | undefined)?.pool
  let total = 0
  return items.map((item, index) => {
    const at = `items[${index}]`
    const { sequence, tokens } = item
    if (!(sequence instanceof GpuSequence) || sequence.disposed) {
      throw validationError('step', `${at}.sequence`, sequence, 'a sequence of this model that is not disposed')
    }
    if (seen.has(sequence)) throw validationError('step', `${at}.sequence`, sequence, 'each sequence once')
    if (sequence.pool !== pool) {
      throw validationError('step', `${at}.sequence`, sequence, 'sequences of one model and KV type')
    }
    seen.add(sequence)
    total += tokens.length
    if (tokens.length === 0 || total > maxBatchTokens) {
      throw validationError('step', `${at}.tokens`, tokens, `1 to ${maxBatchTokens} tokens in a step`)
    }
    const strange = tokens.find((id) => id < 0 || id >= vocab)
    if (strange !== undefined)
      throw validationError('step', `${at}.tokens`, strange, `token ids from 0 to ${vocab - 1}`)
    checkArrays(item, at, limits)
    if (item.enabled) limits.checkEnabled(item.enabled)
    return { ...item, sequence, index }
  })
}

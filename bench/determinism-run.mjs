// Runs one cell of the determinism check: one sequence that is hashed, with batch-mates of other texts at other positions.
import { createHash } from 'node:crypto'
import { expertsPerToken, greedy } from './runtime.mjs'
import { textTokens } from './texts.mjs'

/** Positions of a page of KV cache. */
const pagePositions = 64

/** Writes 28,28,12,28 as 28x3 12: each value with how often it came, in the order of first appearance. */
export function tally(values) {
  const counts = new Map()
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1)
  return [...counts].map(([value, count]) => (count > 1 ? `${value}x${count}` : value)).join(' ')
}

/** Whether the TierSet number `turn` has an expert: one tier in turn is left out where enough remain, and one expert of groups with more than are chosen. */
function hserAllows({ tierGroups, groupExperts, kTier, kExpert }, expert, turn) {
  const group = groupExperts.findLastIndex((first) => first <= expert)
  const tier = tierGroups.findLastIndex((first) => first <= group)
  const [tiers, size] = [tierGroups.length - 1, groupExperts[group + 1] - groupExperts[group]]
  if (tiers > kTier && tier === turn % (tiers + 1)) return false
  return size <= kExpert || expert - groupExperts[group] !== turn % size
}

/** A mask [layers][experts] of the first `count` tiers of a hierarchical model. */
export function tierMask({ plan, model }, count) {
  const { tierGroups, groupExperts } = plan.ops.find(({ op }) => op === 'route').hser
  const { layers, experts } = model.routing
  const end = groupExperts[tierGroups[count]]
  return Uint8Array.from({ length: layers * experts }, (_, i) => Number(i % experts < end))
}

/** A companion sequence: it starts ahead of sequence 0, takes 1 to 6 tokens a step, and starts anew with another text when full. */
class Mate {
  constructor(opened, tokenizer, index, capacity, { changing, epoch }) {
    this.hser = opened.plan.ops.find(({ op }) => op === 'route').hser
    this.shape = opened.model.routing
    this.changing = changing
    this.epoch = epoch
    this.items = 0
    this.tokenizer = tokenizer
    this.index = index
    this.capacity = capacity
    this.round = 0
    this.sequence = opened.model.createSequence({ kvType: 'f16', maxTokens: capacity })
    this.fill()
  }

  fill() {
    this.tokens = textTokens(this.tokenizer, this.index + 8 * this.round++, this.capacity)
  }

  /**
   * A TierSet that leaves every other expert and k more out of reach or in it, another one each time; of a hierarchical model a tier, and
   * one expert of each large group.
   */
  mask(time) {
    const { layers, experts, k } = this.shape
    const turn = time + this.index
    const allowed = this.hser
      ? (_, expert) => hserAllows(this.hser, expert, turn)
      : (layer, expert) => expert < k || (expert + layer + turn) % 2 === 0
    return Uint8Array.from({ length: layers * experts }, (_, i) =>
      Number(allowed(Math.floor(i / experts), i % experts))
    )
  }

  item(count) {
    let from = this.sequence.length
    if (from + count > this.capacity) {
      this.sequence.truncate(0)
      this.fill()
      from = 0
    }
    const sampled = this.index % 2 === 1
    const enabled = this.changing ? this.mask(Math.floor(this.items++ / 5)) : undefined
    return {
      sequence: this.sequence,
      tokens: this.tokens.slice(from, from + count),
      logits: sampled ? 'last' : 'none',
      epoch: this.epoch,
      ...(enabled && { enabled }),
      ...(sampled && { sampling: { ...greedy, temperature: 0.8, seed: this.index } })
    }
  }
}

/**
 * Feeds `prompt` tokens in chunks, then generates `generate` tokens greedily, and hashes sequence 0's logits: of all positions, or
 * from the last prompt position on with `lastOnly`. Sequence 0 may use the experts of `enabled` (default: all), or replays `replay`, and
 * with `capture` its routes are in the result; it uses the experts of `epoch`, its mates those of `mateEpochs` in turn. Returns
 * `{ hash, tokens, rows, problems, routes, reused }`: `rows` is what each step gave to expertMatmul, `problems` tells where that was not what the
 * cell asked for. With `cached` another sequence computes the prompt's whole pages, is disposed, and sequence 0 takes them over; `reused` tells how
 * many positions, whose logits in the hash are the other's.
 */
export async function runCell(
  opened,
  tokenizer,
  {
    chunk,
    batch,
    prompt,
    generate,
    tierSet = 'all',
    lastOnly = false,
    enabled,
    capture = false,
    replay,
    cached = false,
    epoch = 0,
    mateEpochs = [0]
  }
) {
  const { model, plan, cancel } = opened
  const { vocab } = plan
  const used = expertsPerToken(plan)
  const capacity = prompt + generate
  const create = () =>
    model.createSequence({
      kvType: 'f16',
      maxTokens: capacity,
      captureRouting: capture,
      ...(cached && { prefix: { salt: '', epoch, ...(enabled && { enabled }) } })
    })
  const sequence = create()
  const choices = model.routing.layers * model.routing.k
  const mates = Array.from(
    { length: batch - 1 },
    (_, i) =>
      new Mate(opened, tokenizer, i + 1, capacity, {
        changing: tierSet === 'changing',
        epoch: mateEpochs[i % mateEpochs.length]
      })
  )
  const hash = createHash('sha256')
  const problems = []
  const rows = []
  const generated = []
  const logits = new Float32Array((lastOnly ? 1 : chunk) * vocab)

  const step = async (items) => {
    const asked = items.reduce((sum, item) => sum + item.tokens.length, 0)
    const result = await model.step(items, cancel)
    rows.push(result.expertRows)
    for (const { error } of result.items) if (error) throw error
    if (result.rows !== asked) problems.push(`step ${rows.length}: asked for ${asked} rows, ran ${result.rows}`)
    if (result.expertRows !== asked * used)
      problems.push(`step ${rows.length}: expertMatmul had ${result.expertRows} rows, not ${asked * used}`)
    return result
  }

  /** Feeds tokens that follow `fed` others, beside the mates; hashes their logits. Gives the token that follows, from the prompt's end on. */
  const advance = async (own, next, fed) => {
    const positions = lastOnly ? (fed + next.length >= prompt ? 1 : 0) : next.length
    const item = { sequence: own, epoch, tokens: next, logits: positions === 0 ? 'none' : lastOnly ? 'last' : 'all' }
    if (positions) item.logitsOut = logits.subarray(0, positions * vocab)
    if (fed + next.length >= prompt) item.sampling = greedy
    if (replay) {
      const [from, to] = [fed * choices, (fed + next.length) * choices]
      item.forcedIds = replay.ids.subarray(from, to)
      item.forcedWeights = replay.weights.subarray(from, to)
    } else if (enabled) item.enabled = enabled
    const items = mates.map((mate) => mate.item(mate.index % 2 ? 1 : 1 + ((rows.length + mate.index) % 6)))
    const place = rows.length % (items.length + 1)
    items.splice(place, 0, item)
    const result = await step(items)
    if (positions) hash.update(new Uint8Array(logits.buffer, 0, positions * vocab * 4))
    return result.items[place].token
  }
  const tokens = textTokens(tokenizer, 0, prompt)

  /** The prompt's whole pages, computed by another sequence, become sequence 0's. */
  const takeOver = async () => {
    const whole = Math.floor((prompt - 1) / pagePositions) * pagePositions
    const other = create()
    try {
      for (let fed = 0; fed < whole; fed = other.length)
        await advance(other, tokens.subarray(fed, Math.min(fed + chunk, whole)), fed)
    } finally {
      other.dispose()
    }
    const length = sequence.reuse(tokens)
    if (length !== whole || whole === 0) problems.push(`${length} of ${whole} positions were taken over`)
  }

  try {
    for (const mate of mates) await step([mate.item(3 + ((11 * mate.index) % 40))])
    if (cached) await takeOver()
    const reused = sequence.length
    let fed = reused
    let next = tokens.subarray(fed, Math.min(fed + chunk, prompt))
    while (fed < prompt + generate) {
      const token = await advance(sequence, next, fed)
      fed += next.length
      if (fed < prompt) next = tokens.subarray(fed, Math.min(fed + chunk, prompt))
      else {
        generated.push(token)
        next = Int32Array.of(token)
      }
    }
    const routes = capture && { ids: new Int32Array(fed * choices), weights: new Float32Array(fed * choices) }
    if (routes) sequence.copyRoutes(0, fed, routes.ids, routes.weights)
    return { hash: hash.digest('hex'), tokens: generated.slice(0, generate), rows, problems, routes, reused }
  } finally {
    for (const mate of mates) mate.sequence.dispose()
    sequence.dispose()
  }
}

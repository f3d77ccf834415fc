// Runs one cell of the determinism check: one sequence that is hashed, with batch-mates of other texts at other positions.
import { createHash } from 'node:crypto'
import { expertsPerToken, greedy } from './runtime.mjs'
import { textTokens } from './texts.mjs'

/** Writes 28,28,12,28 as 28x3 12: each value with how often it came, in the order of first appearance. */
export function tally(values) {
  const counts = new Map()
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1)
  return [...counts].map(([value, count]) => (count > 1 ? `${value}x${count}` : value)).join(' ')
}

/** A companion sequence: it starts ahead of sequence 0, takes 1 to 6 tokens a step, and starts anew with another text when full. */
class Mate {
  constructor(opened, tokenizer, index, capacity, changing) {
    this.shape = opened.model.routing
    this.changing = changing
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

  /** A TierSet that leaves every other expert and k more out of reach or in it, another one each time. */
  mask(time) {
    const { layers, experts, k } = this.shape
    const allowed = (layer, expert) => expert < k || (expert + layer + time + this.index) % 2 === 0
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
      ...(enabled && { enabled }),
      ...(sampled && { sampling: { ...greedy, temperature: 0.8, seed: this.index } })
    }
  }
}

/**
 * Feeds `prompt` tokens in chunks, then generates `generate` tokens greedily, and hashes sequence 0's logits: of all positions, or
 * from the last prompt position on with `lastOnly`. Returns `{ hash, tokens, rows, problems }`: `rows` is what each step gave to
 * expertMatmul, `problems` tells where that was not what the cell asked for.
 */
export async function runCell(
  opened,
  tokenizer,
  { chunk, batch, prompt, generate, tierSet = 'all', lastOnly = false }
) {
  const { model, plan, cancel } = opened
  const { vocab } = plan
  const used = expertsPerToken(plan)
  const capacity = prompt + generate
  const sequence = model.createSequence({ kvType: 'f16', maxTokens: capacity })
  const mates = Array.from(
    { length: batch - 1 },
    (_, i) => new Mate(opened, tokenizer, i + 1, capacity, tierSet === 'changing')
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

  try {
    for (const mate of mates) await step([mate.item(3 + ((11 * mate.index) % 40))])
    let fed = 0
    let next = textTokens(tokenizer, 0, prompt).subarray(0, Math.min(chunk, prompt))
    while (fed < prompt + generate) {
      const positions = lastOnly ? (fed + next.length >= prompt ? 1 : 0) : next.length
      const item = { sequence, tokens: next, logits: positions === 0 ? 'none' : lastOnly ? 'last' : 'all' }
      if (positions) item.logitsOut = logits.subarray(0, positions * vocab)
      if (fed + next.length >= prompt) item.sampling = greedy
      const items = mates.map((mate) => mate.item(mate.index % 2 ? 1 : 1 + ((rows.length + mate.index) % 6)))
      const place = rows.length % (items.length + 1)
      items.splice(place, 0, item)
      const result = await step(items)
      if (positions) hash.update(new Uint8Array(logits.buffer, 0, positions * vocab * 4))
      fed += next.length
      if (fed < prompt) next = textTokens(tokenizer, 0, prompt).subarray(fed, Math.min(fed + chunk, prompt))
      else {
        const { token } = result.items[place]
        generated.push(token)
        next = Int32Array.of(token)
      }
    }
    return { hash: hash.digest('hex'), tokens: generated.slice(0, generate), rows, problems }
  } finally {
    for (const mate of mates) mate.sequence.dispose()
    sequence.dispose()
  }
}

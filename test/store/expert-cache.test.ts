/** The cache's decisions, through the simulator: equal to a naive model's on random traces, and right on small ones by hand. */
import t from 'tap'
import { isEngineError } from 'tiered-moe'
import { native, type SimulatedPolicy } from '../../lib/native.js'
import { afterLayer, TraceWriter } from '../../lib/tiers/trace.js'
import { random } from '../fixtures/weights.js'
import { NaiveCache } from './naive-cache.js'

const policies = ['lru', 'lfu', 'mix', 'adaptive'] as const
const mix = [0.1, 0.3, 0.2, 0.25, 0.15, 0.01]
const NONE = 0xffffffff

const simulate = (
  trace: { layers: number; experts: number; words: Uint32Array; slots?: number },
  slots: number,
  policy: SimulatedPolicy,
  seed = 0
) =>
  native().simulateCache({ slots: 0, ...trace }, { slots, policy, seed, decisions: true, mix: Float64Array.from(mix) })

/** `count` different numbers below `limit`, ascending, small ones more often. */
function choose(next: () => number, count: number, limit: number): number[] {
  const chosen = new Set<number>()
  while (chosen.size < Math.min(count, limit)) chosen.add(Math.floor(next() ** 1.7 * limit))
  return [...chosen].sort((a, b) => a - b)
}

/** Everything that can be asked of a cache, in random order. */
function randomTrace(seed: number, layers: number, experts: number, steps: number, most: number): Uint32Array {
  const next = random(seed)
  const below = (limit: number) => Math.floor(next() * limit)
  const trace = new TraceWriter()
  const homes: number[] = Array.from({ length: layers * experts }, (_, entry) => Math.floor(entry / experts))
  for (let step = 0; step < steps; step++) {
    if (step > 0) trace.step({ sequences: 1, rows: 1, prefillRows: 0 })
    for (let layer = 0; layer < layers; layer++) {
      const own = homes.flatMap((home, entry) => (home === layer ? [entry] : []))
      // now and then a whole layer, nothing, or the same layer twice in one step
      for (let times = next() < 0.05 ? 2 : 1; times > 0; times--) {
        const wanted = next() < 0.04 ? own.length : next() < 0.03 ? 0 : 1 + below(Math.min(most, own.length))
        trace.layer(
          layer,
          choose(next, wanted, own.length).map((index) => own[index]!)
        )
      }
      if (next() < 0.4) {
        const when = next() < 0.3 ? afterLayer : below(4)
        trace.record('prefetch', [when, ...choose(next, 1 + below(3), homes.length)])
      }
      if (next() < 0.05) trace.record('pin', [below(homes.length), next() < 0.4 ? 1 : 0])
      if (next() < 0.05) trace.record('demote', [below(homes.length), next() < 0.5 ? 1 : 0])
      if (next() < 0.03) trace.record('drop', [below(homes.length)])
      if (next() < 0.02) trace.record('resize', [1 + below(homes.length)])
      if (next() < 0.01) {
        const home = below(layers)
        trace.record('version', [home, below(experts)])
        homes.push(home)
      }
    }
  }
  return trace.words()
}

for (const policy of policies) {
  t.test(`${policy} decides as the naive model does`, async (t) => {
    const shapes: [layers: number, experts: number, steps: number, most: number, slots: number][] = [
      [1, 1, 20, 1, 1],
      [1, 9, 60, 4, 3],
      [3, 8, 80, 3, 12],
      [4, 16, 60, 6, 16],
      [2, 12, 60, 12, 5],
      [5, 6, 60, 3, 29],
      [3, 7, 60, 3, 21]
    ]
    for (const [index, [layers, experts, steps, most, slots]] of shapes.entries()) {
      const words = randomTrace(100 + index, layers, experts, steps, most)
      const seed = index * 0x1234567
      // resizes are obeyed where the recorded slots are the simulated ones, here in every other shape
      const recordedSlots = index % 2 ? slots : slots + 1
      const naive = new NaiveCache({ layers, experts, slots, recordedSlots, policy, seed, mix })
      naive.play(words)
      const {
        decisions,
        layers: perLayer,
        ...counts
      } = await simulate({ layers, experts, words, slots: recordedSlots }, slots, policy, seed)
      const name = `${layers} × ${experts} in ${slots} slots`
      t.ok(naive.decisions.length > 40, `${name}: something was decided`)
      const expected = naive.decisions
      const differs = expected.findIndex((word, i) => word !== decisions![i])
      t.equal(differs, -1, `${name}: decision ${differs >> 2}`)
      t.equal(decisions!.length, expected.length, name)
      t.match(counts, naive.counts, name)
      for (const key of ['uses', 'hits', 'misses', 'evictions', 'prefetches', 'waves'] as const)
        t.equal(
          perLayer.reduce((sum, layer) => sum + layer[key], 0),
          counts[key],
          `${name}: ${key} per layer`
        )
      t.equal(counts.uses, counts.hits + counts.misses, name)
    }
  })
}

/** Decisions as [kind, entry, evicted], without the hits. */
function changes(decisions: Uint32Array): number[][] {
  const out: number[][] = []
  for (let i = 0; i < decisions.length; i += 4)
    if (decisions[i] !== 0) out.push([decisions[i]!, decisions[i + 1]!, decisions[i + 3]!])
  return out
}

const step = { sequences: 1, rows: 1, prefillRows: 0 }

t.test('ages count in turns of their own layer', async (t) => {
  // Two layers of 4 experts in 5 slots. Layer 1's experts 4 and 5 were used a step ago, layer 0's expert 2 two steps ago: it goes,
  // although expert 2 was looked up later than nothing else of layer 0.
  const trace = new TraceWriter()
  trace.layer(0, [0, 2])
  trace.layer(1, [4, 5])
  trace.step(step)
  trace.layer(0, [0, 1])
  trace.layer(1, [4, 5])
  trace.step(step)
  trace.layer(0, [0, 3])
  const { decisions } = await simulate({ layers: 2, experts: 4, words: trace.words() }, 5, 'lru')
  t.same(changes(decisions!).at(-1), [1, 3, 2])
})

t.test('least often used, pins, demotion and what is expected', async (t) => {
  const uses = (trace: TraceWriter) => {
    for (const wanted of [
      [0, 1],
      [0, 1],
      [0, 2]
    ]) {
      trace.layer(0, wanted)
      trace.step(step)
    }
  }
  const last = async (policy: SimulatedPolicy, more: (trace: TraceWriter) => void) => {
    const trace = new TraceWriter()
    uses(trace)
    more(trace)
    trace.layer(0, [3])
    const { decisions } = await simulate({ layers: 1, experts: 5, words: trace.words() }, 3, policy)
    return changes(decisions!).at(-1)
  }
  t.same(await last('lfu', () => {}), [1, 3, 2], 'used once')
  t.same(await last('lru', () => {}), [1, 3, 1], 'used longest ago')
  t.same(await last('lfu', (trace) => trace.record('pin', [2, 1])), [1, 3, 1], 'what is pinned stays')
  t.same(await last('lfu', (trace) => trace.record('demote', [0, 1])), [1, 3, 0], 'what was demoted goes first')
  t.same(
    await last('lfu', (trace) => {
      trace.record('pin', [0, 1])
      trace.record('pin', [1, 1])
      trace.record('pin', [2, 1])
    }),
    [1, 2, NONE],
    'nothing is admitted where everything is pinned'
  )
  t.same(await last('lfu', (trace) => trace.record('drop', [1])), [1, 3, NONE], 'a dropped slot is free')
  // expert 1 makes room for expert 4; the turn passes without it
  const foretold = (trace: TraceWriter) => trace.record('prefetch', [afterLayer, 4])
  t.same(await last('lru', foretold), [1, 3, 4], 'what was expected and did not come goes')
})

t.test('what is expected is kept until its turn', async (t) => {
  const evicted = async (expected: number[]) => {
    const trace = new TraceWriter()
    trace.layer(1, [3, 4])
    trace.step(step)
    trace.layer(1, [4, 5])
    if (expected.length) trace.record('prefetch', [afterLayer, ...expected])
    trace.layer(0, [0])
    const { decisions } = await simulate({ layers: 2, experts: 3, words: trace.words() }, 3, 'lru')
    return changes(decisions!).at(-1)![2]
  }
  t.equal(await evicted([]), 3, 'used longest ago')
  t.ok([4, 5].includes((await evicted([3]))!), 'expected: another goes')
})

t.test('a prefetch evicts nothing that was used last time', async (t) => {
  const trace = new TraceWriter()
  trace.layer(0, [0, 1, 2])
  trace.record('prefetch', [afterLayer, 3])
  const all = await simulate({ layers: 1, experts: 4, words: trace.words() }, 3, 'adaptive')
  t.equal(all.prefetches, 0)
  trace.step(step)
  trace.layer(0, [0, 1])
  trace.record('prefetch', [afterLayer, 3])
  const { decisions, prefetches } = await simulate({ layers: 1, experts: 4, words: trace.words() }, 3, 'adaptive')
  t.equal(prefetches, 1)
  t.same(changes(decisions!).at(-1), [2, 3, 2])
})

t.test('a layer larger than the cache is taken in waves', async (t) => {
  const trace = new TraceWriter()
  trace.layer(0, [0, 1, 2, 3, 4, 5, 6])
  const { decisions, uses, misses, waves } = await simulate({ layers: 1, experts: 7, words: trace.words() }, 4, 'lru')
  t.same([uses, misses], [7, 7])
  t.equal(waves, 3, 'four, then two by two as halves pass their slots on')
  t.same(
    changes(decisions!).map(([, entry]) => entry),
    [0, 1, 2, 3, 4, 5, 6]
  )
})

t.test('the optimum is never worse, on any trace and budget', async (t) => {
  for (const seed of [1, 2, 3]) {
    const next = random(seed)
    const trace = new TraceWriter()
    // What a model reads when it is loaded: nothing, all, or a part.
    const loaded = [0, 30, 12][seed - 1]!
    if (loaded) trace.record('prefetch', [afterLayer, ...Array.from({ length: loaded }, (_, e) => e)])
    for (let s = 0; s < 150; s++) {
      trace.step(step)
      for (let layer = 0; layer < 3; layer++)
        trace.layer(
          layer,
          choose(next, 3, 10).map((e) => layer * 10 + e)
        )
    }
    const words = trace.words()
    for (const slots of [9, 15, 22, 30]) {
      const best = await simulate({ layers: 3, experts: 10, words }, slots, 'optimum')
      for (const policy of [...policies, 'arc'] as const) {
        const own = await simulate({ layers: 3, experts: 10, words }, slots, policy)
        t.equal(own.uses, best.uses)
        t.ok(own.hits <= best.hits, `${policy} in ${slots}: ${own.hits} of ${best.hits}`)
        if (loaded === 30 && slots === 30) t.equal(own.hits, own.uses, `${policy}: nothing is missing`)
      }
    }
  }
  // 2 experts of one layer in 2 slots, wanted 0 1 2 0 1 2: by hand, 2 hits are the best
  const trace = new TraceWriter()
  for (const entry of [0, 1, 2, 0, 1, 2]) {
    trace.step(step)
    trace.layer(0, [entry])
  }
  t.equal((await simulate({ layers: 1, experts: 3, words: trace.words() }, 2, 'optimum')).hits, 2)
  t.equal((await simulate({ layers: 1, experts: 3, words: trace.words() }, 2, 'lru')).hits, 0)
})

t.test('adaptive replacement follows the paper on a small case', async (t) => {
  // 2 slots. 0 and 1 are recent; 0 again: frequent. 2 takes the slot of 1, the only recent one. 1 was a recent ghost: the recent list should
  // have 1 entry, as it has, so 0 goes. 0 was a frequent ghost: the recent list should have none, so 2 goes.
  const trace = new TraceWriter()
  for (const entry of [0, 1, 0, 2, 1, 0]) {
    trace.step(step)
    trace.layer(0, [entry])
  }
  const { hits, misses, evictions } = await simulate({ layers: 1, experts: 3, words: trace.words() }, 2, 'arc')
  t.same([hits, misses, evictions], [1, 5, 3])
})

t.test('seeds break ties, and nothing else', async (t) => {
  const next = random(5)
  const trace = new TraceWriter()
  for (let s = 0; s < 60; s++) {
    trace.step(step)
    trace.layer(0, choose(next, 3, 20))
  }
  const run = (seed: number) => simulate({ layers: 1, experts: 20, words: trace.words() }, 8, 'lfu', seed)
  const [a, again, b] = await Promise.all([run(1), run(1), run(2)])
  t.same(a.decisions, again.decisions)
  t.not(Buffer.compare(Buffer.from(a.decisions!.buffer), Buffer.from(b.decisions!.buffer)), 0)
})

t.test('wrong records and arguments are refused', async (t) => {
  const refused = async (words: number[], index: number | undefined, more: object = {}) => {
    const trace = { layers: 2, experts: 4, slots: 0, words: Uint32Array.from(words) }
    const options = { slots: 2, policy: 'lru', seed: 0, decisions: false, ...more } as const
    const error = await native()
      .simulateCache(trace, options)
      .then(
        () => undefined,
        (reason: unknown) => reason
      )
    t.ok(isEngineError(error) && error.code === 'VALIDATION_ERROR', `${words}`)
    if (index !== undefined && isEngineError(error)) t.equal(error.details.index, index)
  }
  const head = (kind: number, count: number) => kind + 256 * count
  await refused([head(2, 3), 0, 1], 0)
  await refused([head(1, 3), 0, 0, 0, head(2, 2), 2, 0], 4)
  await refused([head(2, 2), 0, 4], 0)
  await refused([head(2, 3), 0, 1, 1], 0)
  await refused([head(2, 0)], 0)
  await refused([head(3, 0)], 0)
  await refused([head(3, 2), 0, 8], 0)
  await refused([head(4, 2), 0, 2], 0)
  await refused([head(5, 1), 0], 0)
  await refused([head(6, 1), 0], 0)
  await refused([head(7, 1), 8], 0)
  await refused([head(8, 2), 0, 4], 0)
  await refused([head(1, 2), 0, 0], 0)
  await refused([], undefined, { slots: 0 })
  await refused([], undefined, { policy: 'belady' })
  await refused([], undefined, { mix: new Float64Array(5) })
  const later = await simulate(
    { layers: 2, experts: 4, words: Uint32Array.from([head(77, 1), 5, head(2, 2), 0, 1]) },
    2,
    'lru'
  )
  t.equal(later.uses, 1, 'a kind of a later version is passed over')
})

/** What a live expert cache counted is what the simulator counts on its trace, exactly. */
import { join } from 'node:path'
import t from 'tap'
import { createEngine, isEngineError, type LoadModelRequest, readTrace, writeTrace } from 'tiered-moe'
import { native } from '../../lib/native.js'
import { traceKinds, traceRecords } from '../../lib/tiers/trace.js'

const model = 'tiny-shakespeare'
const threads = 2

async function open(request: LoadModelRequest) {
  const engine = await createEngine({ threads, maxBatchTokens: 32 })
  t.teardown(() => engine.dispose())
  await engine.loadModel({ contextLength: 192, ...request })
  return engine
}

/** Memory in which so many experts fit while there is no KV cache; with all of them, beside it. */
let memoryFor: (experts: number) => number
t.before(async () => {
  const whole = await open({})
  const { base, keyValues, arena, experts } = whole.listModels()[0]!.memory
  memoryFor = (count) => base + arena + count * experts.slot + (count === 64 ? 4 * keyValues : 0)
  try {
    whole.expertTrace(model)
    t.fail('nothing is recorded')
  } catch (error) {
    t.ok(isEngineError(error) && error.code === 'VALIDATION_ERROR', 'nothing is recorded without being asked for')
  }
  await whole.dispose()
})

for (const [slots, cachePolicy, prefetch] of [
  [16, 'adaptive', 'off'],
  [32, 'adaptive', 'off'],
  [48, 'adaptive', 'off'],
  [16, 'lru', 'off'],
  [32, 'lfu', 'off'],
  [48, 'lru', 'on'],
  [32, 'adaptive', 'on'],
  [16, 'adaptive', 'auto'],
  // a layer's experts in several waves
  [14, 'adaptive', 'off'],
  [13, 'lfu', 'on'],
  // nothing is ever evicted
  [64, 'adaptive', 'off']
] as const) {
  t.test(`${slots} of 64 experts, ${cachePolicy}, prefetch ${prefetch}`, async (t) => {
    const engine = await open({ memory: memoryFor(slots), cachePolicy, prefetch, recordTrace: true })
    // prompts longer than a step, several sequences together, one alone
    const prompts = ['ROMEO: '.repeat(12), 'JULIET:\nO', 'What news, my lord?']
    await Promise.all(
      prompts.map((prompt, seed) => engine.generate({ model, prompt, maxTokens: 24 + seed, temperature: 1, seed }))
    )
    await engine.generate({ model, prompt: 'Enter', maxTokens: 40 })
    const live = engine.modelStats(model).experts!
    const trace = engine.expertTrace(model)
    t.match(trace, { layers: 4, experts: 16, slots, policy: cachePolicy, model, truncated: false })

    const { policy, seed } = trace
    const simulated = await native().simulateCache(trace, { slots, policy, seed, decisions: false })
    const { uses, hits, late, misses, evictions, prefetches, waves } = live
    t.ok(uses > 1000)
    t.equal(uses, hits + late + misses)
    // how far a read has come decides nothing: the simulator knows no late demands
    t.match(simulated, { uses, hits: hits + late, misses, evictions, prefetches, waves })
    for (const [index, layer] of live.layers.entries())
      t.match(simulated.layers[index], { uses: layer.uses, hits: layer.hits + layer.late, misses: layer.misses })

    const shapes = [...traceRecords(trace.words)]
      .filter(({ kind }) => kind === traceKinds.step)
      .map(({ words }) => [...words])
    t.ok(shapes.every(([sequences, rows, prefill]) => sequences! >= 1 && rows! >= sequences! && prefill! <= rows!))
    t.ok(shapes.some(([sequences]) => sequences === 3) && shapes.some(([, rows]) => rows === 32))
    t.same(shapes.at(-1), [1, 1, 0])
    const resizes = [...traceRecords(trace.words)].filter(({ kind }) => kind === traceKinds.resize)
    t.equal(resizes.length > 0, slots < 64, 'the KV cache takes its part while it grows, and gives it back')
    if (slots < 16) t.ok(waves > shapes.length * 4)

    const path = join(t.testdir({}), 'run.trace')
    await writeTrace(path, trace)
    t.same((await readTrace(path)).words, trace.words)
    await engine.dispose()
  })
}

// Another model under the id of a loaded one, while requests go on: who gets which, what is freed, and what stays where it does not fit.
import { join } from 'node:path'
import t from 'tap'
import { createEngine } from 'tiered-moe'
import { writeMoeModel } from '../fixtures/moe-model.js'

t.test('swapModel', async (t) => {
  const folder = t.testdir()
  const [one, other] = [join(folder, 'one.gguf'), join(folder, 'other.gguf')]
  writeMoeModel(one, { seed: 1 })
  writeMoeModel(other, { seed: 2, layers: 3 })
  const events: { event: string; fields: Readonly<Record<string, unknown>> }[] = []
  const engine = await createEngine({ threads: 1, memory: '64MiB', onEvent: (event) => events.push(event) })
  t.teardown(() => engine.dispose())
  const request = { model: 'm', promptTokens: [1, 2, 3], maxTokens: 40, temperature: 0, ignoreEos: true }
  await engine.loadModel({ model: other, id: 'm', memory: '8MiB' })
  const texts = { other: (await engine.generate(request)).text, one: '' }
  await engine.unloadModel('m')
  const before = engine.counters().liveBytes
  await engine.loadModel({ model: one, id: 'm', memory: '8MiB' })
  texts.one = (await engine.generate(request)).text
  t.not(texts.one, texts.other)

  await t.test('what does not fit beside it leaves it as it is', async (t) => {
    await t.rejects(engine.swapModel('m', { model: other, memory: '60MiB' }), {
      code: 'RESOURCE_MEMORY_EXHAUSTED',
      details: { resourceInfo: { unit: 'bytes', limit: 64 * 2 ** 20, current: 8 * 2 ** 20 } }
    })
    await t.rejects(engine.swapModel('m', { model: join(folder, 'absent.gguf') }), { code: 'MODEL_NOT_FOUND' })
    await t.rejects(engine.swapModel('absent', {}), { code: 'MODEL_NOT_LOADED' })
    await t.rejects(engine.swapModel('m', { id: 'n' } as object), { code: 'VALIDATION_ERROR', details: { path: 'id' } })
    t.equal((await engine.generate(request)).text, texts.one)
  })

  await t.test('requests that have begun end on the old one, new ones have the new', async (t) => {
    const running = engine.createGenerator(request)
    const first = await running.next()
    let resolved = false
    const swap = engine.swapModel('m', { model: other, memory: '8MiB' }).then((result) => {
      resolved = true
      return result
    })
    await t.rejects(engine.swapModel('m', { model: other }), { code: 'MODEL_ALREADY_LOADED' }, 'one at a time')
    while (engine.listModels()[0]!.descriptor.layers !== 3) await new Promise((resolve) => setTimeout(resolve, 5))
    t.equal((await engine.generate(request)).text, texts.other)
    t.notOk(resolved, 'the old one still has a request')
    let text = first.value!.text
    for await (const item of running) text += item.text
    t.equal(text, texts.one)
    t.match((await swap).descriptor, { id: 'm', layers: 3 })
    // Events come outside of the work that they tell of.
    await new Promise((resolve) => setTimeout(resolve, 5))
    t.match(events.find(({ event }) => event === 'model_swapped')?.fields, { model: 'm', path: other })
    t.equal(engine.listModels().length, 1)
  })

  await t.test('or with a code, when their time is up', async (t) => {
    const running = engine.createGenerator(request)
    await running.next()
    await engine.swapModel('m', { model: one, memory: '8MiB' }, { drainMs: 0 })
    const read = async () => {
      for await (const _ of running);
    }
    await t.rejects(read(), { code: 'MODEL_NOT_LOADED' })
    t.equal((await engine.generate(request)).text, texts.one)
  })

  await t.test('all memory comes back, and all that was reserved', async (t) => {
    await engine.unloadModel('m')
    t.equal(engine.counters().liveBytes, before)
    await engine.loadModel({ model: one, id: 'm', memory: '60MiB' })
    t.equal((await engine.generate(request)).text, texts.one)
  })

  await t.test('an engine that ends frees both', async (t) => {
    await engine.unloadModel('m')
    await engine.loadModel({ model: one, id: 'm', memory: '8MiB' })
    const running = engine.createGenerator(request)
    await running.next()
    const swap = engine.swapModel('m', { model: other, memory: '8MiB' })
    while (engine.listModels()[0]!.descriptor.layers !== 3) await new Promise((resolve) => setTimeout(resolve, 5))
    await engine.dispose()
    t.match((await swap).descriptor, { layers: 3 })
    await t.rejects(running.next(), { code: 'ENGINE_DISPOSED' })
    t.ok(engine.counters().liveBytes <= before)
  })
})

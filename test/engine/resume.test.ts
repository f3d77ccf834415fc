import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  appendFileSync,
  closeSync,
  copyFileSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync
} from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import type { Engine, GenerationItem, GenerationRequest, JournalOptions } from 'tiered-moe'
import { createEngine } from 'tiered-moe'
import { items } from './items.js'

const model = 'tiny-shakespeare'
const file = join(process.cwd(), 'models/tiny-shakespeare-moe-q8_0.gguf')

async function start(journal: string | JournalOptions, load = true): Promise<Engine> {
  const engine = await createEngine({ threads: 2, journal })
  if (load) await engine.loadModel()
  return engine
}

const textOf = (list: readonly GenerationItem[]): string => list.map(({ text }) => text).join('')

/** The journal as a SIGKILL at this moment would leave it, in a folder of its own. */
function killedCopy(from: string, to: string): string {
  rmSync(to, { recursive: true, force: true })
  mkdirSync(to)
  for (const name of readdirSync(from)) copyFileSync(join(from, name), join(to, name))
  return to
}

const requests: Record<string, GenerationRequest> = {
  greedy: { model, prompt: 'ROMEO:', temperature: 0, maxTokens: 30, ignoreEos: true },
  sampled: { model, prompt: 'JULIET:\nO ', seed: 2 ** 40 + 7, temperature: 1.1, topP: 0.9, maxTokens: 40 },
  penalised: { model, prompt: 'First Citizen:', seed: 3, repetitionPenalty: 1.3, repetitionWindow: 20, maxTokens: 30 },
  stopped: { model, prompt: 'KING', seed: 5, stop: ['the', '\n\n'], maxTokens: 60 },
  likely: { model, prompt: 'A', seed: 6, maxTokens: 12, topLogprobs: 3 }
}

t.test('every request goes on with the same items, from any point of any of them', async (t) => {
  const folder = t.testdir()
  const journal = join(folder, 'journal')
  const plain = await createEngine({ threads: 2 })
  await plain.loadModel()
  const engine = await start({ path: journal, syncMs: 1 })
  for (const [requestId, request] of Object.entries(requests)) {
    const expected = await items(plain.createGenerator({ ...request, requestId }))
    const generator = engine.createGenerator({ ...request, requestId })
    const given = await items(generator, 7)
    t.same(given, expected.slice(0, 7))
    // In the same process: whoever has lost the iterator.
    const resumed = await engine.resumeGenerator({ requestId })
    await t.rejects(items(generator), { code: 'CANCELLED', details: { requestId } }, 'the old iterator has ended')
    t.same(await items(resumed, 9), expected.slice(0, 9))
    await resumed.return()
    // In another one, which knows only the files.
    await new Promise((resolve) => setTimeout(resolve, 20))
    const copy = killedCopy(journal, join(folder, 'copy'))
    for (const from of [0, 3, 9, 20]) {
      const next = await start(killedCopy(copy, join(folder, 'next')), false)
      const rest = await items(await next.resumeGenerator({ requestId, from }))
      const tokens = expected.length - 1
      t.same(rest, expected.slice(Math.min(from, tokens)), `${requestId} from ${from}`)
      t.same(await items(await next.resumeGenerator({ requestId })), expected, 'and once more, from its end')
      await next.acknowledgeRequest({ requestId })
      await t.rejects(next.resumeGenerator({ requestId }), { code: 'REQUEST_NOT_FOUND' })
      await next.dispose()
    }
    t.equal(textOf(await items(await engine.resumeGenerator({ requestId }))), textOf(expected))
  }
  await Promise.all([plain.dispose(), engine.dispose()])
})

t.test('an engine that was disposed leaves its requests running; recovered lists what there is', async (t) => {
  const journal = join(t.testdir(), 'journal')
  const engine = await start(journal)
  t.same(engine.recovered.requests, [])
  const open = engine.createGenerator({ ...requests.greedy!, requestId: 'open' })
  await items(open, 4)
  await engine.generate({ ...requests.sampled!, requestId: 'done' })
  const controller = new AbortController()
  const aborted = engine.createGenerator({ ...requests.stopped!, requestId: 'aborted' }, { signal: controller.signal })
  await items(aborted, 2)
  controller.abort()
  await t.rejects(items(aborted), { code: 'CANCELLED' })
  engine.createGenerator({ ...requests.greedy!, requestId: 'never begun' })
  await engine.dispose()
  await t.rejects(items(open), { code: 'ENGINE_DISPOSED' })

  const next = await start({ path: journal, recover: 'load' }, false)
  t.same(
    next.listModels().map(({ id }) => id),
    [model],
    'recover: load'
  )
  const { requests: found, models, version, cut } = next.recovered
  t.match(found, [
    { requestId: 'open', model, state: 'running', delivered: 4 },
    { requestId: 'done', state: 'finished', finishReason: /stop|length/ },
    { requestId: 'aborted', state: 'failed', code: 'CANCELLED' }
  ])
  t.equal(found.length, 3)
  t.ok(found[0]!.completionTokens >= 4 && found[0]!.promptTokens > 0)
  t.match([models, version, cut], [[{ id: model, path: file }], /^\d/, undefined])
  const resumed = await items(await next.resumeGenerator({ requestId: 'open' }))
  t.equal(textOf(resumed), (await next.generate(requests.greedy!)).text)
  t.equal(resumed.at(-1)!.usage!.completionTokens, 30)
  await t.resolves(items(await next.resumeGenerator({ requestId: 'aborted' })))
  await next.dispose()
})

t.test('a request is accepted when it is on disk; ids are taken once', async (t) => {
  const journal = join(t.testdir(), 'journal')
  const engine = await start(journal)
  const first = engine.createGenerator({ ...requests.greedy!, requestId: 'a' })
  const second = engine.createGenerator({ ...requests.greedy!, requestId: 'a' })
  await first.accepted()
  t.ok(readFileSync(join(journal, '00000001.journal')).includes('"type":"accepted","id":"a"'))
  const expected = { code: 'REQUEST_ALREADY_EXISTS', details: { requestId: 'a', running: true } }
  t.throws(() => engine.createGenerator({ ...requests.greedy!, requestId: 'a' }), expected)
  await t.rejects(second.accepted(), expected, 'one that was made before')
  await t.rejects(second.next(), expected)
  t.same(await second.next(), { done: true, value: undefined })
  await items(first)
  t.throws(
    () => engine.createGenerator({ ...requests.greedy!, requestId: 'a' }),
    { code: 'REQUEST_ALREADY_EXISTS', details: { running: false } },
    'it is in the journal'
  )
  await engine.acknowledgeRequest({ requestId: 'a' })
  t.equal((await engine.generate({ ...requests.greedy!, requestId: 'a' })).requestId, 'a')
  await t.rejects(engine.acknowledgeRequest({ requestId: 'b' }), { code: 'REQUEST_NOT_FOUND' })
  // One that runs ends.
  const third = engine.createGenerator({ ...requests.greedy!, requestId: 'c' })
  await third.next()
  await engine.acknowledgeRequest({ requestId: 'c' })
  await t.rejects(items(third), { code: 'CANCELLED' })
  t.equal(engine.listModels()[0]!.activeSequences, 0)
  await engine.dispose()
  const next = await start(journal, false)
  t.same(
    next.recovered.requests.map(({ requestId }) => requestId),
    ['a']
  )
  await next.dispose()
})

t.test('without a journal: ids of running requests are taken once, and there is nothing to resume', async (t) => {
  const engine = await createEngine({ threads: 2 })
  await engine.loadModel()
  const first = engine.createGenerator({ ...requests.greedy!, requestId: 'a' })
  await first.accepted()
  t.throws(() => engine.createGenerator({ ...requests.greedy!, requestId: 'a' }), { code: 'REQUEST_ALREADY_EXISTS' })
  await first.return()
  await engine.generate({ ...requests.greedy!, requestId: 'a' })
  await engine.generate({ ...requests.greedy!, requestId: 'a' })
  t.same(engine.recovered, {
    requests: [],
    models: [],
    version: undefined,
    routingSeed: undefined,
    cut: undefined,
    damage: []
  })
  await t.rejects(engine.resumeGenerator({ requestId: 'a' }), { code: 'REQUEST_NOT_FOUND' })
  await t.rejects(engine.resumeGenerator({ requestId: 'a', from: -1 }), {
    code: 'VALIDATION_ERROR',
    details: { path: 'from' }
  })
  await t.rejects(createEngine({ journal: { path: 'x', syncMs: -1 } }), { code: 'VALIDATION_ERROR' })
  await engine.dispose()
})

t.test('a model that is another one now', async (t) => {
  const folder = t.testdir()
  const journal = join(folder, 'journal')
  const own = join(folder, 'own.gguf')
  copyFileSync(file, own)
  const engine = await start(journal, false)
  await engine.loadModel({ model: own, contextLength: 128 })
  const request = { ...requests.greedy!, model: 'own', requestId: 'a' }
  await items(engine.createGenerator(request), 3)
  await engine.dispose()
  const attempt = async (prepare: (engine: Engine) => unknown, expected?: object) => {
    const next = await start(killedCopy(journal, join(folder, 'copy')), false)
    await prepare(next)
    if (expected) await t.rejects(next.resumeGenerator({ requestId: 'a' }), expected as { code: string })
    else t.equal((await items(await next.resumeGenerator({ requestId: 'a' }))).length, 31)
    await next.dispose()
  }
  const changed = { code: 'MODEL_CHANGED', details: { model: 'own', expected: { bytes: readFileSync(own).length } } }
  await attempt(() => {})
  utimesSync(own, 1, 1)
  await attempt(() => {}, undefined)
  await attempt((next) => next.loadModel({ model: own, contextLength: 128 }))
  await attempt((next) => next.loadModel({ model: own, contextLength: 127 }), changed)
  await attempt((next) => next.loadModel({ model: own, contextLength: 128, kvType: 'f32' }), changed)
  await attempt((next) => next.loadModel({ model: file, id: 'own', contextLength: 128 }), undefined)
  const bytes = readFileSync(own)
  appendFileSync(own, 'x')
  await attempt(() => {}, { ...changed, details: { actual: { bytes: bytes.length + 1 } } })
  bytes[bytes.length - 1]! ^= 1
  writeFileSync(own, bytes)
  await attempt(() => {}, changed)
  await attempt((next) => next.loadModel({ model: own, contextLength: 128 }), changed)
  rmSync(own)
  await attempt(() => {}, { code: 'MODEL_NOT_FOUND' })
  const next = await start({ path: killedCopy(journal, join(folder, 'copy')), recover: 'load' }, false)
  t.match(next.recovered.models, [{ id: 'own', error: { code: 'MODEL_NOT_FOUND' } }], 'the engine starts all the same')
  await next.dispose()
})

t.test('a random routing seed is the journal’s; requests do not go on under another one', async (t) => {
  const journal = join(t.testdir(), 'journal')
  const random = () => createEngine({ threads: 2, journal, routingSeed: 'random' })
  const first = await random()
  const { routingSeed } = first
  await first.loadModel()
  await items(first.createGenerator({ ...requests.greedy!, requestId: 'a' }), 3)
  await first.dispose()
  const second = await random()
  t.equal(second.recovered.routingSeed, routingSeed)
  t.equal(second.routingSeed, routingSeed)
  t.equal((await items(await second.resumeGenerator({ requestId: 'a' }), 5)).length, 5)
  await second.dispose()
  const other = await createEngine({ threads: 2, journal, routingSeed: 'f'.repeat(32) })
  await t.rejects(other.resumeGenerator({ requestId: 'a' }), { code: 'MODEL_CHANGED' })
  await other.dispose()
})

t.test('two that resume the same request: one of them gets it', async (t) => {
  const journal = join(t.testdir(), 'journal')
  const engine = await start(journal)
  const expected = await engine.generate(requests.sampled!)
  await items(engine.createGenerator({ ...requests.sampled!, requestId: 'a' }), 5)
  const both = await Promise.all([
    engine.resumeGenerator({ requestId: 'a' }),
    engine.resumeGenerator({ requestId: 'a' })
  ])
  const results = await Promise.allSettled(both.map((generator) => items(generator)))
  t.same(results.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
  for (const result of results) {
    if (result.status === 'fulfilled') t.equal(textOf(result.value), expected.text)
    else t.match(result.reason, { code: 'REQUEST_ALREADY_EXISTS' })
  }
  t.equal(textOf(await items(await engine.resumeGenerator({ requestId: 'a' }))), expected.text)
  await engine.dispose()
})

t.test('a request that had failed does not expire while it runs again', async (t) => {
  const journal = { path: join(t.testdir(), 'journal'), retentionMs: 500 }
  const engine = await start(journal)
  const expected = await engine.generate(requests.greedy!)
  const first = engine.createGenerator({ ...requests.greedy!, requestId: 'a' })
  await items(first, 3)
  await first.return()
  const resumed = await engine.resumeGenerator({ requestId: 'a' })
  await resumed.accepted()
  await new Promise((resolve) => setTimeout(resolve, 600))
  await engine.generate({ ...requests.greedy!, requestId: 'b' })
  t.equal(textOf(await items(resumed)), expected.text)
  t.equal(textOf(await items(await engine.resumeGenerator({ requestId: 'a' }))), expected.text)
  await new Promise((resolve) => setTimeout(resolve, 600))
  await t.rejects(engine.resumeGenerator({ requestId: 'a' }), { code: 'REQUEST_NOT_FOUND' }, 'expired after its end')
  await engine.dispose()
})

t.test('a worker that is terminated gives the journal back', async (t) => {
  const folder = t.testdir()
  const journal = join(folder, 'journal')
  const script = join(folder, 'worker.mjs')
  writeFileSync(
    script,
    `import { parentPort, workerData } from 'node:worker_threads'
    const { createEngine } = await import(workerData.entry)
    const engine = await createEngine({ threads: 1, journal: workerData.journal })
    await engine.loadModel()
    const generator = engine.createGenerator({ model: '${model}', prompt: 'ROMEO:', requestId: 'a' })
    await generator.accepted()
    parentPort.postMessage('accepted')
    await new Promise(() => setInterval(() => {}, 1000))`
  )
  const entry = pathToFileURL(join(process.cwd(), 'dist/esm/index.js')).href
  const worker = new Worker(script, { workerData: { entry, journal } })
  await once(worker, 'message')
  await t.rejects(start(journal, false), { code: 'JOURNAL_LOCKED' })
  await worker.terminate()
  const next = await start(journal, false)
  t.match(next.recovered.requests, [{ requestId: 'a', state: 'running' }])
  await next.dispose()
})

t.test('a script with a journal ends by itself', async (t) => {
  const folder = t.testdir()
  const script = join(folder, 'script.mjs')
  writeFileSync(
    script,
    `const { createEngine } = await import(process.argv[2])
    const engine = await createEngine({ threads: 2, journal: process.argv[3] })
    await engine.loadModel()
    const generator = engine.createGenerator({ model: '${model}', prompt: 'ROMEO:', requestId: 'a' })
    for (let i = 0; i < 5; i++) await generator.next()
    console.log('end')`
  )
  const entry = join(process.cwd(), 'dist/esm/index.js')
  const journal = join(folder, 'journal')
  const { stdout, stderr, status } = spawnSync(process.execPath, [script, entry, journal], {
    encoding: 'utf8',
    timeout: 30_000
  })
  t.same([stdout, stderr, status], ['end\n', '', 0])
  const next = await start(journal, false)
  t.match(next.recovered.requests, [{ requestId: 'a', state: 'running' }])
  await next.dispose()
})

t.test('a generator that begins when its engine is gone has not been accepted', async (t) => {
  const journal = join(t.testdir(), 'journal')
  const engine = await start(journal)
  const generator = engine.createGenerator({ model, prompt: 'ROMEO:', requestId: 'late' })
  await engine.dispose()
  // Its descriptor has the number that the journal's had.
  const other = join(t.testdir(), 'other')
  const fds = Array.from({ length: 8 }, () => openSync(other, 'a'))
  await t.rejects(generator.next(), { code: 'ENGINE_DISPOSED' })
  await t.rejects(generator.accepted(), { code: 'ENGINE_DISPOSED' })
  t.equal(readFileSync(other, 'utf8'), '', 'nothing is written into a file of somebody else')
  for (const fd of fds) closeSync(fd)
  const again = await start(journal, false)
  t.same(again.recovered.requests, [])
  await again.dispose()
})

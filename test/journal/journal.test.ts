import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { bytesOf, identity, loadModel, open, program, segmentsIn, usage } from './open.js'

const request = { model: 'tiny', promptTokens: [5, 6], seed: 2 ** 53 - 1, temperature: 0.7 }

t.test('what was written is there after the next opening', async (t) => {
  const folder = join(t.testdir(), 'made/below')
  const first = await open(folder)
  t.same(first.recovered.requests, [])
  t.equal(first.recovered.version, undefined)
  const load = loadModel(first)
  await first.accept('running', load, request)
  await first.accept('finished', load, request)
  await first.accept('failed', load, request)
  await first.accept('gone', load, request)
  for (let i = 0; i < 5; i++)
    first.produced('running', i, { token: i, logprob: -i / 3, topLogprobs: [{ token: i, logprob: -0.1 }] })
  first.delivered('running', 3)
  first.produced('finished', 0, { token: 9 })
  first.finished('finished', 'length', usage(1))
  first.failed('failed', 'INFERENCE_TIMEOUT')
  await first.acknowledge('gone')
  first.produced('running', 5, { token: 77, logprob: -1, topLogprobs: [] })
  t.same(first.get('running')?.tokens, [0, 1, 2, 3, 4, 77], 'tokens that no record holds yet can be read')
  await first.close()

  const second = await open(folder)
  const { requests, models, version, cut } = second.recovered
  const common = { model: 'tiny', promptTokens: 2 }
  t.match(requests, [
    { requestId: 'running', state: 'running', completionTokens: 6, delivered: 3, ...common },
    { requestId: 'finished', state: 'finished', finishReason: 'length', completionTokens: 1, ...common },
    { requestId: 'failed', state: 'failed', code: 'INFERENCE_TIMEOUT', ...common }
  ])
  t.equal(requests.length, 3)
  t.same([models, version, cut], [[{ id: 'tiny', path: '/tiny.gguf', options: { kvType: 'f16' } }], '1', undefined])
  const running = second.get('running')!
  t.same(running.accepted.request, request)
  t.same(running.logprobs, [-0, -1 / 3, -2 / 3, -1, -4 / 3, -1])
  t.equal(running.top.length, 6)
  t.match(second.load(running.accepted.load), { id: 'tiny', identity })
  // A failed request that is resumed is running again.
  second.produced('failed', 0, { token: 1 })
  t.equal(second.get('failed')?.failed, undefined)
  await second.close()
})

t.test('an accepted request is on disk before accept resolves, and many share one fsync', async (t) => {
  const folder = t.testdir()
  const journal = await open(folder)
  const load = loadModel(journal)
  await journal.accept('first', load, request)
  const [name] = segmentsIn(folder)
  t.ok(bytesOf(folder, name!).includes('"first"'))
  const ids = Array.from({ length: 50 }, (_, i) => `request ${i}`)
  await Promise.all(ids.map((id) => journal.accept(id, load, request)))
  const text = bytesOf(folder, name!).toString()
  t.ok(ids.every((id) => text.includes(`"${id}"`)))
  await journal.close()
})

t.test('segments rotate; compaction keeps what is needed and nothing else', async (t) => {
  const folder = t.testdir()
  const journal = await open(folder, { segmentBytes: 8192 })
  const load = loadModel(journal)
  const kept: string[] = []
  for (let i = 0; i < 120; i++) {
    const id = `request ${i}`
    await journal.accept(id, load, { ...request, promptTokens: Array(100).fill(i) })
    journal.produced(id, 0, { token: i })
    if (i % 3 === 0) {
      kept.push(id)
      await journal.flush()
    } else {
      journal.finished(id, 'stop', usage(1))
      await journal.acknowledge(id)
    }
  }
  const { segments, bytes } = journal.size
  t.equal(segments, segmentsIn(folder).length)
  t.equal(
    bytes,
    segmentsIn(folder).reduce((sum, name) => sum + statSync(join(folder, name)).size, 0)
  )
  t.ok(segments > 1, `${segments} segments`)
  t.notOk(segmentsIn(folder).includes('00000001.journal'), 'the first segment has been compacted away')
  t.ok(bytes < 40 * 600 * 2, `${bytes} bytes for 40 requests`)
  await journal.close()
  const again = await open(folder)
  t.same(
    again.recovered.requests.map(({ requestId, completionTokens }) => [requestId, completionTokens]),
    kept.map((id) => [id, 1])
  )
  for (const id of kept) await again.acknowledge(id)
  await again.close()
})

t.test('a model that no request names and that is not loaded leaves', async (t) => {
  const folder = t.testdir()
  const journal = await open(folder)
  const first = loadModel(journal)
  await journal.accept('a', first, request)
  const blob = { path: 'b.bin', offset: 0, crc32c: 1, sha256: '0'.repeat(64) }
  await journal.expertsChanged(first, 1, [{ layer: 0, expert: 3, version: 1, blob, previous: { version: 0 } }])
  journal.tierSetActivated(first, ['fast'])
  journal.modelUnloaded(first)
  const second = loadModel(journal)
  t.not(second, first)
  t.ok(journal.load(first), 'a request needs it')
  t.equal(journal.expertChanges(first).length, 1)
  await journal.acknowledge('a')
  t.equal(journal.load(first), undefined)
  t.same(journal.expertChanges(first), [])
  t.ok(journal.load(second))
  await journal.close()
  const again = await open(folder)
  t.equal(again.recovered.models.length, 1)
  t.equal(loadModel(again), second + 1, 'loads are never numbered twice')
  t.equal(again.load(second), undefined, 'another load of the model is in its place')
  await again.close()
})

t.test('what was loaded is known until it is loaded again, or until an engine ends in order without it', async (t) => {
  const folder = join(t.testdir(), 'journal')
  const blob = { path: 'b.bin', offset: 0, crc32c: 1, sha256: '0'.repeat(64) }
  const first = await open(folder)
  const load = loadModel(first)
  await first.expertsChanged(load, 1, [{ layer: 0, expert: 3, version: 1, blob, previous: { version: 0 } }])
  await first.close()
  // An engine that is killed before it has loaded anything; twice.
  for (let i = 0; i < 2; i++) {
    const args = program(
      folder,
      "journal.started({ version: '1', node: '20' }); await journal.flush(); process.kill(process.pid, 9)"
    )
    t.equal(spawnSync(process.execPath, args, { stdio: 'inherit' }).signal, 'SIGKILL')
  }
  const second = await open(folder)
  t.match(second.recovered.models, [{ id: 'tiny' }])
  t.match(second.earlierLoads('tiny'), [{ model: { load }, experts: [{ epoch: 1 }], persisted: [] }])
  const before = { ...identity, sha256: 'bb' }
  await second.persisting(loadModel(second), identity, before)
  await second.close()
  const third = await open(folder)
  t.match(third.earlierLoads('tiny'), [{ model: { load: load + 1 }, experts: [], persisted: [before, identity] }])
  await third.close()
  const fourth = await open(folder)
  t.same(fourth.recovered.models, [])
  await fourth.close()
})

t.test('what has ended can be read until it expires; what runs never does', async (t) => {
  const folder = t.testdir()
  const journal = await open(folder, { retentionMs: 300 })
  const load = loadModel(journal)
  await journal.accept('running', load, request)
  await journal.accept('ended', load, request)
  journal.finished('ended', 'stop', usage(0))
  t.ok(journal.get('ended'))
  await new Promise((resolve) => setTimeout(resolve, 400))
  t.equal(journal.get('ended'), undefined)
  t.ok(journal.get('running'))
  await journal.close()
  const again = await open(folder, { retentionMs: 300 })
  t.same(
    again.recovered.requests.map(({ requestId }) => requestId),
    ['running']
  )
  await again.close()
})

t.test('one engine at a time; a lock whose process died holds nobody', async (t) => {
  const folder = join(t.testdir(), 'journal')
  const args = program(folder, "console.log('open'); setInterval(() => {}, 1000)")
  const holder = spawn(process.execPath, args)
  await once(holder.stdout, 'data')
  await t.rejects(open(folder), { code: 'JOURNAL_LOCKED', details: { path: folder, pid: holder.pid! } })
  holder.kill('SIGKILL')
  await once(holder, 'exit')
  t.ok(readdirSync(folder).includes('lock'), 'its file is still there')
  const journal = await open(folder)
  await t.rejects(open(folder), { code: 'JOURNAL_LOCKED', details: { pid: process.pid } }, 'in the same process too')
  await journal.close()
  await (await open(folder)).close()
})

t.test('leftovers of an interrupted compaction are cleared', async (t) => {
  const folder = t.testdir()
  const journal = await open(folder, { segmentBytes: 2000 })
  const load = loadModel(journal)
  const old = bytesOf(folder, '00000001.journal')
  for (let i = 0; i < 30; i++) {
    await journal.accept(`${i}`, load, request)
    if (i > 0) await journal.acknowledge(`${i}`)
  }
  await journal.close()
  const names = segmentsIn(folder)
  t.notOk(names.includes('00000001.journal'))
  const number = Number(names[0]!.slice(0, 8)) - 1
  writeFileSync(join(folder, `${String(number).padStart(8, '0')}.journal`), old)
  writeFileSync(join(folder, '00000099.journal.tmp'), 'half')
  const again = await open(folder)
  t.same(segmentsIn(folder), names)
  t.notOk(readdirSync(folder).includes('00000099.journal.tmp'))
  t.same(
    again.recovered.requests.map(({ requestId }) => requestId),
    ['0']
  )
  await again.close()
})

t.test('an open journal keeps no process alive', async (t) => {
  const folder = join(t.testdir(), 'journal')
  const args = program(folder, "journal.started({ version: '1', node: 'v20' })")
  const { status, stderr } = spawnSync(process.execPath, args, { timeout: 20_000, encoding: 'utf8' })
  t.same([status, stderr], [0, ''])
})

/** Pieces of the isolation that a whole engine reaches seldom. */
import { spawnSync } from 'node:child_process'
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createEngine } from '../../lib/create-engine.js'
import type { LocalEngine } from '../../lib/engine/local-engine.js'
import { writeCrashRecord } from '../../lib/isolation/crash-record.js'
import { History } from '../../lib/isolation/history.js'
import { KeepAlive } from '../../lib/isolation/keep-alive.js'
import { RemoteGenerator } from '../../lib/isolation/remote-generator.js'
import { RemoteStream } from '../../lib/isolation/remote-stream.js'
import { decodeTokens } from '../../lib/isolation/tokens.js'
import { WorkerStreams } from '../../lib/isolation/worker-streams.js'
import { pair } from './channel.js'
import { until } from './until.js'

const model = 'tiny-shakespeare'

t.test('room that is told of while a stream is being opened counts', async (t) => {
  const engine = (await createEngine({ threads: 1, journal: t.testdir() })) as LocalEngine
  t.teardown(() => engine.dispose())
  await engine.loadModel()
  const { text } = await engine.generate({ model, prompt: 'ROMEO:', maxTokens: 8, temperature: 0, requestId: 'r' })
  const { near, far, tokens } = pair()
  const ended = new Promise((resolve) => near.handle('stream.end', resolve))
  const streams = new WorkerStreams(engine, far, { release: async () => {}, onChange: () => {} })
  const open = { stream: 1, method: 'resumeGenerator', request: {}, requestId: 'r', from: 0, credit: 0 }
  const opened = streams.open({ ...open, kind: 'resume' })
  streams.credit(1, 32)
  await opened
  await ended
  t.equal(tokens.flatMap(([, bytes]) => decodeTokens(bytes).items.map((item) => item.text)).join(''), text)
})

t.test('what the other side has closed is not computed any more', async (t) => {
  const engine = (await createEngine({ threads: 1 })) as LocalEngine
  t.teardown(() => engine.dispose())
  await engine.loadModel()
  const { far, tokens } = pair()
  const streams = new WorkerStreams(engine, far, { release: async () => {}, onChange: () => {} })
  const request = { model, prompt: 'ROMEO:', maxTokens: 200, temperature: 0, ignoreEos: true }
  const open = { stream: 1, method: 'createGenerator', request, requestId: 'r', from: 0, credit: 1 }
  await streams.open({ ...open, kind: 'create' })
  await until(() => tokens.length > 0)
  t.match(engine.listModels(), [{ activeSequences: 1 }])
  await streams.close(1)
  t.match(engine.listModels(), [{ activeSequences: 0 }])
})

const stream = (begin: (own: RemoteStream) => void = () => {}) => {
  const setup = {
    id: 1,
    requestId: 'r',
    model,
    method: 'createGenerator',
    kind: 'create' as const,
    request: {},
    from: 0
  }
  const own = new RemoteStream({ ...setup, promptTokens: 1, keepAlive: new KeepAlive(), told: () => {} })
  return { own, generator: new RemoteGenerator(own, begin) }
}

t.test('nothing comes after return(), whatever had been sent', async (t) => {
  const { own, generator } = stream()
  own.receive(
    0,
    [1, 2, 3].map((token) => ({ token, text: `${token}` }))
  )
  t.match(await generator.next(), { value: { token: 1 } })
  await generator.return()
  t.same(await generator.next(), { done: true, value: undefined })
  const failed = stream()
  failed.own.fail(new Error('too late'))
  await failed.generator.return()
  t.same(await failed.generator.next(), { done: true, value: undefined })
})

t.test('accepted() ends with a generation that never began', { timeout: 10_000 }, async (t) => {
  const { generator } = stream()
  await generator.return()
  await generator.accepted()
  t.same(await generator.next(), { done: true, value: undefined })
})

t.test('a record has the end of an audit log of any size', async (t) => {
  const folder = t.testdir()
  const audit = join(folder, 'audit.log')
  writeFileSync(audit, '')
  truncateSync(audit, 3 * 2 ** 30)
  writeFileSync(audit, `\n${Array.from({ length: 30 }, (_, i) => `{"seq":${i}}\n`).join('')}{"cut`, { flag: 'a' })
  const death = { pid: 1, exitCode: 139, signal: 'SIGSEGV' as const, reason: 'signal' as const, outOfMemory: false }
  const path = await writeCrashRecord(folder, {
    time: '2026-01-01T00:00:00.000Z',
    worker: 0,
    death: { ...death, orderly: false, stderr: [], fault: undefined },
    requests: [],
    counters: undefined,
    version: '0',
    audit
  })
  const lines = Array.from({ length: 19 }, (_, i) => ({ seq: i + 11 }))
  t.same(JSON.parse(readFileSync(path, 'utf8')).audit, [...lines, '{"cut'])
})

t.test('what a worker is told again: pins as they are now, and nothing that is still the caller’s', async (t) => {
  const history = new History()
  const tiers = [{ name: 'a' }]
  history.note('loadModel', model, { tiers }, {})
  tiers[0]!.name = 'b'
  const [one, two] = [
    { layer: 0, expert: 1 },
    { layer: 2, expert: 3 }
  ]
  for (let i = 0; i < 100; i++) {
    history.note('pinExperts', model, model, [one, two], true)
    history.note('pinExperts', model, model, [one], false)
  }
  t.same(history.entries(true), [
    { method: 'loadModel', model, args: [{ tiers: [{ name: 'a' }] }, {}] },
    { method: 'pinExperts', model, args: [model, [two], true] }
  ])
})

t.test('nothing piles up in a worker whose engine’s program stands still', async (t) => {
  const script = `
    import { Duplex } from 'node:stream'
    import { RpcPeer } from './dist/esm/isolation/rpc.js'
    import { WorkerEngine } from './dist/esm/isolation/worker-engine.js'
    const channel = new Duplex({ read() {}, write() {} })
    const hooks = { logger: false, onEvent: false, onError: false, onPhase: false }
    const rpc = new RpcPeer(channel, { onFault: (error) => { throw error } })
    await WorkerEngine.initialize(rpc, { options: {}, journal: undefined, ephemeral: false, hooks, heartbeatMs: 1 })
    let turns = 0
    let first
    setInterval(() => {
      if (++turns === 5) first = channel.writableLength
      if (turns < 100) return
      console.log(JSON.stringify({ first, last: channel.writableLength }))
      process.exit()
    }, 2)`
  const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' })
  const { first, last } = JSON.parse(stdout)
  t.ok(first > 0)
  t.equal(last, first)
})

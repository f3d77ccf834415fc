/** A model whose archive tier is on a real nginx and not here: the same text, what the cold folder keeps, and what fails without the server. */
import { execFile, spawn } from 'node:child_process'
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { convertModel, createEngine, type Engine, isEngineError, type LoadModelRequest } from 'tiered-moe'
import { startFaultyProxy } from '../fixtures/faulty-proxy.js'
import { nginxMissing, startNginx } from '../fixtures/nginx.js'
import { embedded } from '../fixtures/package.js'
import {
  contextLength,
  memoryFor as memoryOf,
  openTiny,
  quick,
  request,
  tiers,
  writeArchived
} from './archived-model.js'
import { temporaryFolder } from './setting.js'

if (nginxMissing) {
  t.plan(0, nginxMissing)
  process.exit(0)
}
const home = t.testdir()
const [whole, part] = [join(home, 'whole'), join(home, 'part')]
/** What one token can need of the archive: four experts of each of four layers. The archive has 32. */
const tokenBlobs = 16
const tokens = Int32Array.from({ length: 75 }, (_, i) => (i * 37 + 11) % 200)
const bytes = (array: Float32Array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength)

const nginx = await startNginx()
t.teardown(() => nginx.stop())
let plain: Engine
t.before(async () => {
  await writeArchived(nginx, whole, part)
  plain = await createEngine({ threads: 2, maxBatchTokens: 64 })
  await plain.loadModel({ id: 'tiny', model: whole, contextLength })
})
t.teardown(() => plain?.dispose())
t.beforeEach(async () => {
  await nginx.requests()
})

const open = (t: Test, coldFolder: string, load: LoadModelRequest = {}, archive = {}, url = nginx.url) =>
  openTiny(t, { model: part, archive: { ...quick, url, coldFolder, ...archive }, ...load })
/** Memory in which so many of the 64 experts fit. */
const memoryFor = (experts: number) => memoryOf(plain, experts)
const codeOf = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => undefined,
    (error) => (isEngineError(error) ? error.code : error)
  )
const coldFiles = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.blob'))

t.test('the same bits as from the whole model, and each blob is fetched once', async (t) => {
  const expected = await plain.forward({ model: 'tiny', tokens, logits: 'all' })
  const { text } = await plain.generate(request)
  const perplexity = await plain.perplexity({ model: 'tiny', tokens })
  const cold = temporaryFolder(t)
  const first = await open(t, cold)
  t.same(await nginx.requests(), [], 'a load asks the server nothing')
  t.equal((await first.generate(request)).text, text)
  t.ok(bytes(await first.forward({ model: 'tiny', tokens, logits: 'all' })).equals(bytes(expected)))
  t.same(await first.perplexity({ model: 'tiny', tokens }), perplexity)
  const fetched = await nginx.requests()
  t.ok(fetched.length > 0 && fetched.every(({ status }) => status === 206))
  t.equal(new Set(fetched.map(({ path, range }) => path + range)).size, fetched.length)
  t.equal(coldFiles(cold).length, fetched.length)
  await first.dispose()

  const second = await open(t, cold, { memory: memoryFor(12) })
  t.equal((await second.generate(request)).text, text)
  t.ok(bytes(await second.forward({ model: 'tiny', tokens, logits: 'all' })).equals(bytes(expected)))
  t.same(await nginx.requests(), [], 'the cold folder survives a restart')
})

t.test('concurrent requests have the text that each has alone', async (t) => {
  const prompts = ['ROMEO:', 'JULIET:', 'KING HENRY:', 'First Citizen:']
  const expected = await Promise.all(prompts.map((prompt) => plain.generate({ ...request, prompt })))
  const engine = await open(t, temporaryFolder(t), { memory: memoryFor(30) })
  const found = await Promise.all(prompts.map((prompt) => engine.generate({ ...request, prompt })))
  t.same(
    found.map(({ text }) => text),
    expected.map(({ text }) => text)
  )
})

t.test('a cold folder with room for a few blobs: what was evicted is fetched again', async (t) => {
  const { text } = await plain.generate(request)
  const { slot } = plain.listModels()[0]!.memory.experts
  const cold = temporaryFolder(t)
  const engine = await open(
    t,
    cold,
    { memory: memoryFor(55), cachePolicy: 'lru' },
    { coldBytes: (tokenBlobs + 1) * slot }
  )
  t.equal((await engine.generate(request)).text, text)
  const fetched = (await nginx.requests()).map(({ path, range }) => path + range)
  t.ok(new Set(fetched).size < fetched.length)
  t.ok(coldFiles(cold).length <= tokenBlobs + 1)
})

t.test('a prefill that needs more than the cold folder holds is computed in parts', async (t) => {
  const some = tokens.subarray(0, 20)
  const expected = await plain.forward({ model: 'tiny', tokens: some, logits: 'all' })
  const long = { ...request, prompt: 'ROMEO: what say you?', maxTokens: 3 }
  const short = { ...request, maxTokens: 6 }
  const texts = await Promise.all([long, short].map((one) => plain.generate(one)))
  const { slot } = plain.listModels()[0]!.memory.experts
  for (const room of [tokenBlobs, 24]) {
    const cold = temporaryFolder(t)
    // Memory for little: what a step has once brought may be gone from it when the step is run again.
    const engine = await open(t, cold, { memory: memoryFor(12), prefetch: 'off' }, { coldBytes: room * slot })
    t.ok(bytes(await engine.forward({ model: 'tiny', tokens: some, logits: 'all' })).equals(bytes(expected)))
    const fetched = (await nginx.requests()).length
    t.ok(fetched < some.length * tokenBlobs, `${room} blobs of room: ${fetched} fetches`)
    t.comment(`${room} blobs of room: ${fetched} fetches for ${some.length} tokens`)
    const both = await Promise.all([long, short].map((one) => engine.generate(one)))
    t.same(
      both.map(({ text }) => text),
      texts.map(({ text }) => text)
    )
    t.ok(coldFiles(cold).length <= room)
    await engine.dispose()
  }
})

t.test('a cold folder without room for one token: an error at once that says how much it needs', async (t) => {
  const { slot } = plain.listModels()[0]!.memory.experts
  const engine = await open(t, temporaryFolder(t), {}, { coldBytes: (tokenBlobs - 1) * slot })
  const refused = {
    code: 'RESOURCE_BUDGET_TOO_SMALL',
    details: { resourceInfo: { required: tokenBlobs * slot, available: (tokenBlobs - 1) * slot, unit: 'bytes' } }
  }
  await t.rejects(engine.forward({ model: 'tiny', tokens }), refused)
  await t.rejects(engine.generate(request), refused)
  t.same(await nginx.requests(), [], 'nothing has been fetched for it')
  t.ok((await engine.generate({ ...request, tierSet: 'core' })).text)
})

t.test('a cold folder that is removed while it is in use is filled again', async (t) => {
  const { text } = await plain.generate(request)
  const cold = temporaryFolder(t)
  const engine = await open(t, cold, { memory: memoryFor(52), cachePolicy: 'lru' })
  t.equal((await engine.generate(request)).text, text)
  rmSync(cold, { recursive: true })
  t.equal((await engine.generate({ ...request, prompt: 'JULIET:' })).finishReason, 'length')
  t.equal((await engine.generate(request)).text, text)
})

t.test('an address in the manifest: the folder works with no option, and an option goes before it', async (t) => {
  const addressed = join(temporaryFolder(t), 'addressed')
  cpSync(whole, addressed, { recursive: true })
  const from = embedded
  const { manifest, written } = await convertModel({ from, to: addressed, tiers, archiveUrl: nginx.url })
  t.match([manifest.archive, written], [{ url: nginx.url }, 0])
  t.match((await convertModel({ from, to: addressed, tiers })).manifest.archive, { url: nginx.url }, 'it is kept')
  rmSync(join(addressed, 'experts/rare'), { recursive: true })
  const env = { ...process.env, HOME: temporaryFolder(t) }
  const args = [
    'dist/esm/cli/main.js',
    'run',
    addressed,
    '--prompt',
    'ROMEO:',
    '--max-tokens',
    '12',
    '--temperature',
    '0'
  ]
  const run = await promisify(execFile)(process.execPath, args, { env })
  t.ok(run.stdout.length > 5)
  t.ok((await nginx.requests()).length > 0, 'it came from there')
  const inspected = await promisify(execFile)(process.execPath, ['dist/esm/cli/main.js', 'inspect', addressed])
  t.match(inspected.stdout, nginx.url)
  const verified = await promisify(execFile)(process.execPath, ['dist/esm/cli/main.js', 'verify', addressed])
  t.match(verified.stdout, `4 files are in the archive only, at ${nginx.url}\n`)
  const engine = await createEngine({ threads: 2 })
  t.teardown(() => engine.dispose())
  const archive = { ...quick, url: `${nginx.url}/none`, coldFolder: temporaryFolder(t) }
  await engine.loadModel({ id: 'tiny', model: addressed, archive })
  t.equal(await codeOf(engine.generate(request)), 'ARCHIVE_REFUSED')
  await engine.unloadModel('tiny')
  // Without an address the options are of that one; headers would go to a host that the caller has not named.
  const own = { ...quick, coldFolder: temporaryFolder(t) }
  await engine.loadModel({ id: 'tiny', model: addressed, archive: own })
  t.equal(await codeOf(engine.generate(request)), undefined)
  t.ok(coldFiles(own.coldFolder).length > 0)
  t.equal(
    await codeOf(engine.loadModel({ id: 'b', model: addressed, archive: { headers: { a: 'b' } } })),
    'VALIDATION_ERROR'
  )
  for (const archiveUrl of ['http://a:b@host/', 'http://a@host/', 'https://host/?signature=1', 'ftp://host/', 'x']) {
    t.equal(await codeOf(convertModel({ from, to: addressed, tiers, archiveUrl })), 'VALIDATION_ERROR', archiveUrl)
  }
  t.equal(
    await codeOf(engine.loadModel({ id: 'b', model: part, archive: { url: 'http://a:b@host/' } })),
    'VALIDATION_ERROR'
  )
})

t.test('options that HTTP or the system could not have', async (t) => {
  const engine = await createEngine({ threads: 1 })
  t.teardown(() => engine.dispose())
  const refused: [object, string, RegExp][] = [
    [{ url: 'ftp://host/' }, 'archive.url', /http or https/],
    [{ url: 'http://host/', headers: { 'a b': 'c' } }, 'archive.headers', /HTTP headers/],
    [{ url: 'http://host/', headers: { authorization: 'a\nb' } }, 'archive.headers', /HTTP headers/],
    [{ url: 'http://host/', coldFolder: 'a\0b' }, 'archive.coldFolder', /path of a folder/],
    [{ url: 'http://host/', coldBytes: -1 }, 'archive.coldBytes', /4096/],
    [{ url: 'http://host/', timeouts: { totalMs: 0 } }, 'archive.timeouts.totalMs', /milliseconds/],
    [{ url: 'http://host/', retry: { attempts: 0 } }, 'archive.retry.attempts', /1 to 100/]
  ]
  for (const [archive, path, allowed] of refused) {
    const load = engine.loadModel({ model: part, archive } as LoadModelRequest)
    await t.rejects(load, { code: 'VALIDATION_ERROR', details: { path, allowed } }, path)
  }
})

t.test('two models of a process share a cold folder and its limit', async (t) => {
  const { text } = await plain.generate(request)
  const { slot } = plain.listModels()[0]!.memory.experts
  const cold = temporaryFolder(t)
  const coldBytes = (tokenBlobs + 2) * slot
  const engine = await open(t, cold, { memory: memoryFor(12) }, { coldBytes })
  const archive = { ...quick, url: nginx.url, coldFolder: cold, coldBytes: 2 * coldBytes }
  await engine.loadModel({ id: 'other', model: part, contextLength, archive, memory: memoryFor(12) })
  const texts = await Promise.all(['tiny', 'other'].map((model) => engine.generate({ ...request, model })))
  t.same(
    texts.map((own) => own.text),
    [text, text]
  )
  t.ok(coldFiles(cold).length * slot <= coldBytes, 'the smaller limit holds')
  await engine.unloadModel('tiny')
  t.equal((await engine.generate({ ...request, model: 'other' })).text, text)
})

t.test('another process has the cold folder: a typed error, and none of it is touched', async (t) => {
  const cold = temporaryFolder(t)
  const code = `
    import { createEngine } from 'tiered-moe'
    const engine = await createEngine({ threads: 1 })
    await engine.loadModel({ model: ${JSON.stringify(part)}, archive: { url: ${JSON.stringify(nginx.url)}, coldFolder: ${JSON.stringify(cold)} } })
    process.stdout.write('loaded')
    setInterval(() => {}, 1000)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['ignore', 'pipe', 'inherit'] })
  await new Promise((resolve) => child.stdout.once('data', resolve))
  const refused = { code: 'COLD_FOLDER_LOCKED', details: { pid: child.pid } }
  await t.rejects(open(t, cold), refused)
  const ended = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGKILL')
  await ended
  const engine = await open(t, cold)
  t.equal((await engine.generate(request)).text, (await plain.generate(request)).text, 'the dead hold nothing')
})

t.test('a damaged and a removed file of the cold folder are fetched again', async (t) => {
  const { text } = await plain.generate(request)
  const cold = temporaryFolder(t)
  const first = await open(t, cold)
  await first.generate(request)
  await first.dispose()
  const [damaged, ...others] = coldFiles(cold)
  const engine = await open(t, cold)
  const content = readFileSync(join(cold, damaged!))
  content[1000]! ^= 4
  writeFileSync(join(cold, damaged!), content)
  for (const name of others) rmSync(join(cold, name))
  await nginx.requests()
  t.equal((await engine.generate(request)).text, text)
  t.equal((await nginx.requests()).length, others.length + 1)
})

t.test('without the archive tier the server is never asked', async (t) => {
  const expected = await plain.generate({ ...request, tierSet: 'core' })
  const engine = await open(t, temporaryFolder(t), { memory: memoryFor(12), prefetch: 'on' })
  t.equal((await engine.generate({ ...request, tierSet: 'core' })).text, expected.text)
  t.same(await nginx.requests(), [])
})

t.test(
  'the server is killed: what is cold is served, the rest fails with a typed error, the engine lives',
  async (t) => {
    const { text } = await plain.generate(request)
    const short = { ...request, maxTokens: 1 }
    const engine = await open(t, temporaryFolder(t), { memory: memoryFor(30), cachePolicy: 'lru' })
    const first = await engine.generate(short)
    await nginx.stop()
    t.same((await engine.generate(short)).text, first.text)
    const core = { ...request, tierSet: 'core' }
    const expected = await plain.generate(core)
    const [need, without] = await Promise.all([engine.generate(request).catch((error) => error), engine.generate(core)])
    t.match(need, { code: 'NETWORK_PARTITION', details: { text: String } })
    t.ok(text.startsWith(need.details.text), 'with what there was until then')
    t.equal(without.text, expected.text, 'who does not need it goes on')
    t.equal(await codeOf(engine.forward({ model: 'tiny', tokens })), 'NETWORK_PARTITION')
    const view = engine.placement('tiny')
    const each = Array.from(view.where, (_, i) => view.expert(Math.floor(i / view.experts), i % view.experts))
    const missing = each.filter(({ residency }) => residency === 'unavailable')
    t.ok(missing.length > 0, 'what could not be had is said to be unavailable')
    t.ok(missing.every(({ tier, now }) => tier === 'rare' && now === 'archive'))
    t.equal(view.unavailable, missing.length)
    t.equal(view.tiers.find(({ name }) => name === 'rare')!.unavailable, missing.length)
    await nginx.start()
    t.equal((await engine.generate(request)).text, text)
    t.ok(
      bytes(await engine.forward({ model: 'tiny', tokens })).equals(
        bytes(await plain.forward({ model: 'tiny', tokens }))
      )
    )
    t.equal(engine.placement('tiny').unavailable, 0, 'it is there again')
  }
)

t.test(
  'a circuit that opened while the server was gone closes again, for steps that want several experts too',
  async (t) => {
    const cooldownMs = 50
    const engine = await open(t, temporaryFolder(t), {}, { breaker: { failureThreshold: 1, cooldownMs } })
    await nginx.stop()
    t.equal(await codeOf(engine.forward({ model: 'tiny', tokens })), 'NETWORK_PARTITION')
    await nginx.start()
    await sleep(cooldownMs)
    const [one, other] = [
      await engine.forward({ model: 'tiny', tokens }),
      await plain.forward({ model: 'tiny', tokens })
    ]
    t.ok(bytes(one).equals(bytes(other)))
  }
)

t.test('a server that stalls: others go on, an abort and dispose end the wait', async (t) => {
  const proxy = await startFaultyProxy(nginx.port)
  t.teardown(() => proxy.close())
  proxy.always = { kind: 'stall', after: 1000 }
  const slow = { timeouts: { connectMs: 60_000, firstByteMs: 60_000, betweenBytesMs: 60_000, totalMs: 60_000 } }
  const engine = await open(t, temporaryFolder(t), {}, slow, proxy.url)
  const controller = new AbortController()
  const { signal } = controller
  const aborted = codeOf(engine.generate(request, { signal }))
  const forward = codeOf(engine.forward({ model: 'tiny', tokens }, { signal }))
  const core = { ...request, tierSet: 'core' }
  t.equal((await engine.generate(core)).text, (await plain.generate(core)).text)
  t.ok(proxy.connections > 0)
  controller.abort()
  t.equal(await aborted, 'CANCELLED')
  t.equal(await forward, 'CANCELLED')
  const disposed = codeOf(engine.generate(request))
  while (proxy.connections < 2) await new Promise((resolve) => setTimeout(resolve, 5))
  await engine.dispose()
  t.equal(await disposed, 'ENGINE_DISPOSED')
})

t.test('where it is refused', async (t) => {
  const engine = await createEngine({ threads: 1 })
  t.teardown(() => engine.dispose())
  t.equal(await codeOf(engine.loadModel({ model: part })), 'CHECKPOINT_INVALID')
  const archive = { url: nginx.url, coldFolder: temporaryFolder(t) }
  t.equal(await codeOf(engine.loadModel({ archive })), 'VALIDATION_ERROR')
  t.equal(await codeOf(engine.loadModel({ model: part, archive: { url: 'ftp://x' } })), 'VALIDATION_ERROR')
})

/** Experts that only the archive has are replaced while their model serves: the archive is asked for those that requests still use. */
import { spawnSync } from 'node:child_process'
import { cpSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t, { type Test } from 'tap'
import { type Engine, verifyCheckpoint } from 'tiered-moe'
import { manifestOf } from '../checkpoint/checkpoints.js'
import { items } from '../engine/items.js'
import { nginxMissing, startNginx } from '../fixtures/nginx.js'
import { embedded } from '../fixtures/package.js'
import { memoryFor, openTiny, quick, request, writeArchived } from './archived-model.js'
import { temporaryFolder } from './setting.js'

if (nginxMissing) {
  t.plan(0, nginxMissing)
  process.exit(0)
}
const [whole, part] = [join(t.testdir(), 'whole'), join(t.testdirName, 'part')]
const nginx = await startNginx()
t.teardown(() => nginx.stop())
const archive = (t: Test) => ({
  ...quick,
  url: nginx.url,
  coldFolder: temporaryFolder(t)
})
/** A copy of the folder: an engine that ends writes its changes into it. */
function copyOf(t: Test): string {
  const folder = join(temporaryFolder(t), 'copy')
  cpSync(part, folder, { recursive: true })
  return folder
}
/** All archived experts of two layers become others, so that every request meets some. */
const changes = [1, 2].flatMap((layer) =>
  Array.from({ length: 8 }, (_, i) => ({
    action: 'replace' as const,
    layer,
    expert: 8 + i,
    from: embedded,
    fromLayer: 3 - layer,
    fromExpert: i
  }))
)
let plain: Engine
/** What the model says before and after the changes. */
const texts = { before: '', after: '' }

t.before(async () => {
  await writeArchived(nginx, whole, part)
  plain = await openTiny(t, { model: embedded })
  texts.before = (await plain.generate(request)).text
  await plain.swapExperts('tiny', changes)
  texts.after = (await plain.generate(request)).text
})

/** Where the original of a changed expert lies on the server. */
function replacedRanges(): Set<string> {
  const { layers, shards } = manifestOf(whole)
  return new Set(
    changes.map(({ layer, expert }) => {
      const { shard, offset, bytes } = layers[layer].experts[expert]
      return `/${shards[shard].path} bytes=${offset}-${offset + bytes - 1}`
    })
  )
}
const asked = async () => (await nginx.requests()).map(({ path, range }) => `${path} ${range}`)

t.test('what is replaced is not fetched; a request of before the swap still gets it', async (t) => {
  t.not(texts.after, texts.before)
  const originals = replacedRanges()
  // Room for all, with the new versions beside the originals, and for a few: there what was fetched has to be read again.
  for (const experts of [64 + changes.length, 12 + changes.length]) {
    const load = { model: copyOf(t), archive: archive(t), memory: memoryFor(plain, experts), prefetch: 'off' as const }
    const engine = await openTiny(t, load)
    await asked()
    const early = engine.createGenerator(request)
    const first = await early.next()
    await engine.swapExperts('tiny', changes)
    await asked()
    const [late] = await Promise.all([engine.generate(request)])
    t.equal(late.text, texts.after)
    t.notOk(
      (await asked()).some((range) => originals.has(range)),
      'no original is fetched for who does not use it'
    )
    const rest = await items(early)
    t.equal([first.value, ...rest].map((item) => (item as { text?: string }).text ?? '').join(''), texts.before)
    t.ok(
      (await asked()).some((range) => originals.has(range)),
      'the earlier request has brought originals after the swap'
    )
    t.equal((await engine.generate(request)).text, texts.after)
    await engine.dispose()
  }
})

t.test('persisted, they need no archive any more', async (t) => {
  const folder = copyOf(t)
  const engine = await openTiny(t, { model: folder, archive: archive(t) })
  const early = engine.createGenerator(request)
  await early.next()
  await engine.swapExperts('tiny', changes)
  t.same(await engine.persistExperts('tiny'), [], 'a request uses the originals, which no file here has')
  await items(early)
  t.equal((await engine.persistExperts('tiny')).length, changes.length)
  await engine.dispose()
  t.match((await verifyCheckpoint(folder)).damage, [])
  const again = await openTiny(t, { model: folder, archive: archive(t) })
  await asked()
  t.equal((await again.generate(request)).text, texts.after)
  const originals = replacedRanges()
  t.notOk((await asked()).some((range) => originals.has(range)))
})

t.test('killed after the swap was to be persisted: each request goes on with what it began with', async (t) => {
  const home = temporaryFolder(t)
  const [folder, journal, script] = [copyOf(t), join(home, 'journal'), join(home, 'serve.mjs')]
  const load = { model: folder, id: 'tiny', archive: archive(t), contextLength: 192 }
  writeFileSync(
    script,
    `import { createEngine } from ${JSON.stringify(pathToFileURL(join(process.cwd(), 'dist/esm/index.js')).href)}
    const engine = await createEngine({ threads: 2, journal: { path: ${JSON.stringify(journal)}, syncMs: 1 } })
    await engine.loadModel(${JSON.stringify(load)})
    const begin = async (requestId) => {
      const generator = engine.createGenerator({ ...${JSON.stringify(request)}, requestId })
      for (let i = 0; i < 3; i++) await generator.next()
    }
    await begin('before')
    await engine.swapExperts('tiny', ${JSON.stringify(changes)})
    await engine.persistExperts('tiny')
    await begin('after')
    await new Promise((resolve) => setTimeout(resolve, 30))
    process.kill(process.pid, 'SIGKILL')`
  )
  t.equal(spawnSync(process.execPath, [script], { stdio: 'inherit' }).signal, 'SIGKILL')
  const engine = await openTiny(t, load, { journal })
  const textOf = async (requestId: string) =>
    (await items(await engine.resumeGenerator({ requestId }))).map(({ text }) => text).join('')
  t.equal(await textOf('before'), texts.before)
  t.equal(await textOf('after'), texts.after)
  await engine.dispose()
})

t.test('a merge, and an expert of a folder that does not have it, are refused', async (t) => {
  const engine = await openTiny(t, { model: part, archive: archive(t) })
  const merge = { action: 'merge' as const, layer: 0, experts: [0, 9] }
  const missing = { code: 'EXPERT_UNAVAILABLE', details: { layer: 0, expert: 9, archived: 1 } }
  await t.rejects(engine.swapExperts('tiny', [merge]), missing)
  const replace = { action: 'replace' as const, layer: 0, expert: 0, from: part, fromExpert: 9 }
  await t.rejects(engine.swapExperts('tiny', [replace]), { code: 'CHECKPOINT_INVALID' })
})

/** Swaps that outlive their process: in the checkpoint, and through the journal in what its requests began with. */
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t, { type Test } from 'tap'
import { convertModel, verifyCheckpoint } from 'tiered-moe'
import { manifestOf } from '../checkpoint/checkpoints.js'
import { items } from '../engine/items.js'
import { answers, answersOf, gguf, requests, startEngine, writeGrafted } from './models.js'

const model = 'm'
const type = 'Q8_0'
const graft = { layer: 1, expert: 3, seed: 2 }

interface Files {
  source: string
  donor: string
  folder: string
}

async function files(t: Test): Promise<Files> {
  t.testdir()
  const source = writeGrafted(gguf(t, 'a'), 1, [], { type })
  const folder = join(t.testdirName, 'folder')
  await convertModel({ from: source, to: folder })
  return { source, donor: writeGrafted(gguf(t, 'b'), 2, [], { type }), folder }
}

const swapped = (t: Test, name = 'one') => answersOf(t, writeGrafted(gguf(t, name), 1, [graft], { type }))
const change = ({ donor }: Files) => ({ action: 'replace', layer: 1, expert: 3, from: donor }) as const
const versionsIn = (folder: string) =>
  existsSync(join(folder, 'versions')) ? readdirSync(join(folder, 'versions')) : []

t.test('a shutdown persists; the folder verifies and loads to the same texts', async (t) => {
  const own = await files(t)
  const { folder } = own
  const [old, one] = [await answersOf(t, own.source), await swapped(t)]
  const engine = await startEngine(t)
  await engine.loadModel({ model: folder, id: model })
  const before = readFileSync(join(folder, 'manifest.json'), 'utf8')
  await engine.swapExperts(model, [change(own)])
  t.equal(readFileSync(join(folder, 'manifest.json'), 'utf8'), before, 'nothing is written before that')
  await engine.dispose()
  t.match((await verifyCheckpoint(folder)).damage, [])
  t.equal(manifestOf(folder).layers[1].experts[3].version, 1)
  t.equal(manifestOf(folder).layers[1].experts[2].version, 0)
  const again = await startEngine(t)
  await again.loadModel({ model: folder, id: model, verifyOnLoad: true })
  t.same(await answers(again, model), one)

  // Back, and persisted by a call: the file that no manifest names any more goes.
  const [first] = versionsIn(folder)
  await again.swapExperts(model, [{ ...change(own), from: own.source }])
  t.same(await answers(again, model), old)
  const persisted = await again.persistExperts(model)
  t.match(persisted, [{ layer: 1, expert: 3, version: 2 }])
  t.same(await again.persistExperts(model), [], 'there is nothing more to write')
  t.equal(versionsIn(folder).length, 1)
  t.not(versionsIn(folder)[0], first)
  t.match((await verifyCheckpoint(folder)).damage, [])
  await again.dispose()
  t.same(await answersOf(t, folder), old)
  await t.rejects(
    convertModel({ from: own.source, to: folder }),
    { code: 'VALIDATION_ERROR' },
    'no conversion undoes it silently'
  )
  const other = join(t.testdirName, 'other')
  await convertModel({ from: folder, to: other })
  t.same(await answersOf(t, other), old)
})

t.test('a manifest that has become another one is not written over', async (t) => {
  const own = await files(t)
  const [one, two] = [await startEngine(t), await startEngine(t)]
  for (const engine of [one, two]) await engine.loadModel({ model: own.folder, id: model })
  await one.swapExperts(model, [change(own)])
  await two.swapExperts(model, [{ action: 'reinitialise', layer: 1, expert: 3, seed: 4 }])
  await one.persistExperts(model)
  const text = readFileSync(join(own.folder, 'manifest.json'), 'utf8')
  await t.rejects(two.persistExperts(model), { code: 'MODEL_CHANGED' })
  t.equal(readFileSync(join(own.folder, 'manifest.json'), 'utf8'), text)
  await Promise.all([one.dispose(), two.dispose()])
  t.match((await verifyCheckpoint(own.folder)).damage, [])
})

t.test('one checkpoint that cannot be written does not keep another from it', async (t) => {
  const own = await files(t)
  const [gone, sound] = [own.folder, join(t.testdirName, 'sound')]
  await convertModel({ from: own.source, to: sound })
  const codes: string[] = []
  const engine = await startEngine(t, { onError: ({ code }) => codes.push(code) })
  for (const [i, folder] of [gone, sound].entries()) {
    await engine.loadModel({ model: folder, id: `m${i}` })
    await engine.swapExperts(`m${i}`, [change(own)])
  }
  rmSync(join(gone, 'manifest.json'))
  await engine.dispose()
  t.same(codes, ['MODEL_NOT_FOUND'])
  t.equal(manifestOf(sound).layers[1].experts[3].version, 1)
})

/** A process that is killed with three requests under way, each begun with other experts. `persist`: the first swap is in the folder. */
function killed(t: Test, path: string, { donor, source }: Files, persist: boolean): string {
  const journal = join(t.testdirName, `journal-${persist}`)
  const script = join(t.testdirName, 'serve.mjs')
  const lib = pathToFileURL(join(process.cwd(), 'dist/esm/index.js')).href
  writeFileSync(
    script,
    `import { createEngine } from ${JSON.stringify(lib)}
    const engine = await createEngine({ threads: 2, journal: { path: ${JSON.stringify(journal)}, syncMs: 1 } })
    await engine.loadModel({ model: ${JSON.stringify(path)}, id: '${model}' })
    const begin = async (requestId) => {
      const request = ${JSON.stringify(requests)}[1]
      const generator = engine.createGenerator({ model: '${model}', ...request, requestId })
      for (let i = 0; i < 3; i++) await generator.next()
    }
    const swap = (from) => engine.swapExperts('${model}', [{ action: 'replace', layer: 1, expert: 3, from }])
    await begin('before')
    await swap(${JSON.stringify(donor)})
    if (${persist}) await engine.persistExperts('${model}')
    await begin('between')
    await swap(${JSON.stringify(source)})
    await engine.swapExperts('${model}', [{ action: 'reinitialise', layer: 0, expert: 0, seed: 1 }])
    await begin('after')
    await new Promise((resolve) => setTimeout(resolve, 30))
    process.kill(process.pid, 'SIGKILL')`
  )
  t.equal(spawnSync(process.execPath, [script], { stdio: 'inherit' }).signal, 'SIGKILL')
  return journal
}

for (const form of ['source', 'folder'] as const) {
  for (const persist of form === 'folder' ? [false, true] : [false]) {
    t.test(
      `killed (${form}${persist ? ', persisted' : ''}): each request goes on with what it began with`,
      async (t) => {
        const own = await files(t)
        const reference = join(t.testdirName, 'reference.gguf')
        copyFileSync(own.source, reference)
        const [old, one] = [await answersOf(t, reference), await swapped(t)]
        const journal = killed(t, own[form], own, persist)
        const fresh = await startEngine(t)
        await fresh.loadModel({ model: reference, id: model })
        await fresh.swapExperts(model, [{ action: 'reinitialise', layer: 0, expert: 0, seed: 1 }])
        const last = await answers(fresh, model)
        t.not(last.texts[1], old.texts[1])

        const leftover = join(journal, 'experts', 'layer-000-expert-0001-0.bin')
        mkdirSync(join(journal, 'experts'), { recursive: true })
        writeFileSync(leftover, 'begun')
        for (const attempt of [1, 2]) {
          const engine = await startEngine(t, { journal })
          t.notOk(existsSync(leftover), 'what no record names goes')
          const running = engine.recovered.requests.filter(({ state }) => state === 'running')
          t.same(
            running.map(({ requestId }) => requestId),
            ['before', 'between', 'after']
          )
          // The second engine has only what the first one has written down again.
          const textOf = async (requestId: string) =>
            (await items(await engine.resumeGenerator({ requestId }), attempt === 1 ? 5 : undefined))
              .map(({ text }) => text)
              .join('')
          const [before, between, after] = await Promise.all(['before', 'between', 'after'].map(textOf))
          t.ok(
            old.texts[1]!.startsWith(before!) && one.texts[1]!.startsWith(between!) && last.texts[1]!.startsWith(after!)
          )
          if (attempt === 2) t.same([before, between, after], [old.texts[1], one.texts[1], last.texts[1]])
          t.same(await answers(engine, model), last, 'later requests have the newest')
          if (attempt === 1) {
            await engine.dispose()
            continue
          }
          for (const requestId of ['before', 'between', 'after']) await engine.acknowledgeRequest({ requestId })
          t.same(await answers(engine, model), last)
          await engine.dispose()
        }
        if (form === 'source') {
          t.same(readFileSync(own.source), readFileSync(reference), 'the file is as it was')
          return
        }
        t.match((await verifyCheckpoint(own.folder)).damage, [])
        t.same(await answersOf(t, own.folder), last)
      }
    )
  }
}

/** A process that is killed where the manifest with its swap is renamed, before it or after it, with a request of each version under way. */
function killedAtRename(t: Test, { donor, folder }: Files, moment: 'before' | 'after'): string {
  const journal = join(t.testdirName, `journal-${moment}`)
  const script = join(t.testdirName, 'persist.mjs')
  const lib = pathToFileURL(join(process.cwd(), 'dist/esm/index.js')).href
  writeFileSync(
    script,
    `import files from 'node:fs/promises'
    import { syncBuiltinESMExports } from 'node:module'
    const { rename } = files
    files.rename = async (from, to) => {
      const isManifest = to.endsWith('manifest.json')
      if (isManifest && ${moment === 'before'}) process.kill(process.pid, 'SIGKILL')
      await rename(from, to)
      if (isManifest) process.kill(process.pid, 'SIGKILL')
    }
    syncBuiltinESMExports()
    const { createEngine } = await import(${JSON.stringify(lib)})
    const engine = await createEngine({ threads: 2, journal: { path: ${JSON.stringify(journal)}, syncMs: 60000 } })
    await engine.loadModel({ model: ${JSON.stringify(folder)}, id: '${model}' })
    const begin = (requestId) => {
      const request = ${JSON.stringify(requests)}[1]
      return engine.createGenerator({ model: '${model}', ...request, requestId }).accepted()
    }
    await begin('before')
    await engine.swapExperts('${model}', [{ action: 'replace', layer: 1, expert: 3, from: ${JSON.stringify(donor)} }])
    await begin('after')
    await engine.persistExperts('${model}')`
  )
  t.equal(spawnSync(process.execPath, [script], { stdio: 'inherit' }).signal, 'SIGKILL')
  return journal
}

for (const moment of ['before', 'after'] as const) {
  t.test(
    `killed just ${moment} a manifest is in its place: each request goes on with what it began with`,
    async (t) => {
      const own = await files(t)
      const [old, one] = [await answersOf(t, own.source), await swapped(t)]
      const journal = killedAtRename(t, own, moment)
      t.equal(manifestOf(own.folder).layers[1].experts[3].version, moment === 'before' ? 0 : 1)
      t.match((await verifyCheckpoint(own.folder)).damage, [])
      const engine = await startEngine(t, { journal })
      for (const [requestId, { texts }] of [['before', old] as const, ['after', one] as const]) {
        const text = (await items(await engine.resumeGenerator({ requestId }))).map(({ text }) => text).join('')
        t.equal(text, texts[1], requestId)
      }
      t.same(await answers(engine, model), one, 'later requests have the newest')
      t.match(await engine.persistExperts(model), moment === 'before' ? [{ layer: 1, expert: 3 }] : [])
      await engine.dispose()
      t.same(await answersOf(t, own.folder), one)
    }
  )
}

t.test(
  'killed when the file of a version has just gone: the journal says that its last request has ended',
  async (t) => {
    const { donor, source, folder } = await files(t)
    const { texts } = await swapped(t)
    const journal = join(t.testdirName, 'journal')
    const script = join(t.testdirName, 'forget.mjs')
    const lib = pathToFileURL(join(process.cwd(), 'dist/esm/index.js')).href
    writeFileSync(
      script,
      `import files from 'node:fs/promises'
    import { syncBuiltinESMExports } from 'node:module'
    const { rm } = files
    files.rm = async (path, options) => {
      await rm(path, options)
      if (path.includes('versions')) process.kill(process.pid, 'SIGKILL')
    }
    syncBuiltinESMExports()
    const { createEngine } = await import(${JSON.stringify(lib)})
    const engine = await createEngine({ threads: 2, journal: { path: ${JSON.stringify(journal)}, syncMs: 60000 } })
    await engine.loadModel({ model: ${JSON.stringify(folder)}, id: '${model}' })
    const swap = (from) => engine.swapExperts('${model}', [{ action: 'replace', layer: 1, expert: 3, from }])
    await swap(${JSON.stringify(donor)})
    const generator = engine.createGenerator({ model: '${model}', ...${JSON.stringify(requests)}[1], requestId: 'r' })
    await generator.accepted()
    await swap(${JSON.stringify(source)})
    for await (const item of generator);
    await new Promise((resolve) => setTimeout(resolve, 60000))`
    )
    t.equal(spawnSync(process.execPath, [script], { stdio: 'inherit' }).signal, 'SIGKILL')
    const engine = await startEngine(t, { journal })
    t.match(engine.recovered.requests, [{ requestId: 'r', state: 'finished' }])
    const text = (await items(await engine.resumeGenerator({ requestId: 'r' }))).map(({ text }) => text).join('')
    t.equal(text, texts[1])
    await engine.dispose()
  }
)

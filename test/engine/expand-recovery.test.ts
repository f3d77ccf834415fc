/** A tier that was added, and a crash: real SIGKILLs during the expansion and behind it, and what the next engine says of each request. */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import t from 'tap'
import { convertModel, createEngine, type Engine, type EngineEvent, type GenerationItem } from 'tiered-moe'
import { fillDisk, smallDisk } from '../journal/mounts.js'

const root = dirname(createRequire(import.meta.url).resolve('tiered-moe/package.json'))
const home = t.testdir()
const [whole, part, other] = ['whole', 'part', 'other'].map((name) => join(home, name)) as [string, string, string]
const request = { model: 'tiny', prompt: 'ROMEO:', seed: 11, maxTokens: 40, ignoreEos: true }
let core: string
let all: string

t.before(async () => {
  const from = join(root, 'models/tiny-shakespeare-moe-q8_0.gguf')
  const tiers = [
    { name: 'core', placement: 'hot' as const, experts: ['0-7'] },
    { name: 'rare', placement: 'cold' as const, experts: 'rest' as const }
  ]
  await convertModel({ from, to: whole, tiers })
  cpSync(whole, part, { recursive: true })
  rmSync(join(part, 'experts/rare'), { recursive: true })
  cpSync(whole, other, { recursive: true })
  const plain = await createEngine({ threads: 2 })
  await plain.loadModel({ id: 'tiny', model: whole })
  core = (await plain.generate({ ...request, tierSet: 'core' })).text
  all = (await plain.generate(request)).text
  await plain.dispose()
  t.not(core, all)
})

/** The child is killed; the journal that it leaves. */
function killed(name: string, when: 'during' | 'after'): string {
  const journal = join(home, name)
  const args = ['test/engine/expand-child.mjs', journal, part, other, when]
  const { signal, stderr } = spawnSync(process.execPath, args, { cwd: process.cwd(), encoding: 'utf8' })
  if (signal !== 'SIGKILL') throw new Error(`the child was to be killed: ${stderr}`)
  return journal
}

async function resumed(engine: Engine, requestId: string): Promise<string> {
  const items: GenerationItem[] = []
  for await (const item of await engine.resumeGenerator({ requestId })) items.push(item)
  return items.map(({ text }) => text).join('')
}

t.test('killed during the expansion: no request has used the tier, and the next engine does not have it', async (t) => {
  const engine = await createEngine({ threads: 2, journal: killed('during', 'during') })
  t.match(engine.recovered, { requests: [{ requestId: 'core', state: 'running' }], cut: undefined })
  t.equal(await resumed(engine, 'core'), core)
  t.match(engine.listModels()[0]!.tiers, [{ available: true }, { name: 'rare', available: false }])
  await engine.expand('tiny', { from: other })
  t.equal((await engine.generate({ ...request, tierSet: 'max' })).text, all, 'the expansion can be asked for again')
  await engine.dispose()
})

t.test('killed behind it: the tier is there again, and every request has its text', async (t) => {
  const engine = await createEngine({ threads: 2, journal: killed('after', 'after') })
  t.match(engine.recovered, {
    requests: [{ requestId: 'core' }, { requestId: 'rare', state: 'running' }],
    models: [{ options: { tierFolders: { rare: other } } }]
  })
  t.equal(await resumed(engine, 'rare'), all)
  t.equal(await resumed(engine, 'core'), core)
  t.match(engine.listModels()[0]!.tierSet.tiers, ['core'], 'active is what was active')
  await engine.dispose()
})

for (const recover of ['demand', 'load'] as const) {
  t.test(`killed behind it, and its folder is gone (recover: ${recover})`, async (t) => {
    const path = killed(`gone-${recover}`, 'after')
    renameSync(other, `${other}-elsewhere`)
    const events: EngineEvent[] = []
    const journal = { path, recover }
    const engine = await createEngine({ threads: 2, journal, onEvent: (event) => events.push(event) })
    try {
      t.equal(await resumed(engine, 'core'), core, 'who does not need the tier goes on')
      await t.rejects(resumed(engine, 'rare'), { code: 'TIER_UNAVAILABLE', details: { tier: 'rare' } })
      t.match(
        events.filter(({ event }) => event === 'tier_missing'),
        [{ fields: { model: 'tiny', tier: 'rare', folder: other, code: 'MODEL_NOT_FOUND' } }]
      )
      await engine.expand('tiny', { from: `${other}-elsewhere` })
      t.equal(await resumed(engine, 'rare'), all, 'it has waited for the tier')
      await engine.dispose()
      const next = await createEngine({ threads: 2, journal })
      t.equal(await resumed(next, 'rare'), all, 'and the new place is known')
      await next.dispose()
    } finally {
      await engine.dispose()
      renameSync(`${other}-elsewhere`, other)
    }
  })
}

t.test('a journal that cannot be written: the tier is not added', async (t) => {
  const disk = smallDisk(t, '256k')
  if (!disk) return
  const journal = { path: join(disk, 'journal'), syncMs: 1 }
  mkdirSync(journal.path)
  const engine = await createEngine({ threads: 2, journal })
  await engine.loadModel({ id: 'tiny', model: part, tierFolders: { rare: false } })
  const free = fillDisk(disk)
  // The last page of the journal's file has room for less than this name.
  const deep = join(home, ...Array.from({ length: 14 }, () => 'x'.repeat(250)))
  mkdirSync(deep, { recursive: true })
  symlinkSync(other, join(deep, 'other'))
  await t.rejects(engine.expand('tiny', { from: join(deep, 'other') }), { code: 'JOURNAL_WRITE_FAILED' })
  t.equal(engine.state, 'active')
  t.match(engine.placement('tiny').tiers[1], { now: { absent: { experts: 32 } } })
  await t.rejects(engine.forward({ model: 'tiny', tokens: [1], tierSet: 'rare' }), { code: 'TIER_UNAVAILABLE' })
  free()
  await engine.expand('tiny', { from: other })
  t.equal((await engine.generate({ ...request, tierSet: 'max', requestId: 'rare' })).text, all)
  await engine.dispose()
  const next = await createEngine({ threads: 2, journal })
  t.match(next.recovered.models, [{ options: { tierFolders: { rare: other } } }])
  await next.dispose()
})

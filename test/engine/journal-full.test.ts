/** An engine whose journal's disk is full, or fails while it serves. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createEngine } from 'tiered-moe'
import { fillDisk, smallDisk } from '../journal/mounts.js'

const model = 'tiny-shakespeare'
const request = { model, prompt: 'ROMEO:', temperature: 0, maxTokens: 60, ignoreEos: true }

t.test(
  'a full disk: new requests are refused with the bytes, running ones go on, and it recovers by itself',
  async (t) => {
    const disk = smallDisk(t, '256k')
    if (!disk) return
    const journal = { path: join(disk, 'journal'), syncMs: 1 }
    mkdirSync(journal.path)
    const engine = await createEngine({ threads: 2, journal })
    await engine.loadModel()
    const expected = await engine.generate(request)
    const running = engine.createGenerator({ ...request, requestId: 'running' })
    let text = (await running.next()).value?.text
    const free = fillDisk(disk)
    // More than what is left in the file's last page.
    const large = { ...request, stop: Array.from({ length: 16 }, (_, i) => `${i}`.padEnd(1000, '#')) }
    for (const call of ['accepted', 'next'] as const) {
      const refused = engine.createGenerator({ ...large, requestId: `refused ${call}` })
      const result: Promise<unknown> = refused[call]()
      await t.rejects(result, {
        code: 'JOURNAL_WRITE_FAILED',
        retryable: true,
        details: { errno: 'ENOSPC', resourceInfo: { unit: 'bytes' } }
      })
      await refused.return()
      await t.rejects(engine.resumeGenerator({ requestId: `refused ${call}` }), { code: 'REQUEST_NOT_FOUND' })
    }
    t.equal(engine.listModels()[0]!.activeSequences, 1, 'what was refused holds nothing')
    for await (const item of running) text += item.text
    t.equal(text, expected.text, 'the one that ran has its whole text')
    free()
    t.equal((await engine.generate({ ...large, requestId: 'refused next' })).text, expected.text)
    await engine.dispose()
    const next = await createEngine({ threads: 2, journal })
    t.match(next.recovered.requests, [{}, { requestId: 'running', state: 'finished' }, { requestId: 'refused next' }])
    t.equal(next.recovered.requests.length, 3)
    t.equal(next.recovered.cut, undefined)
    await next.dispose()
  }
)

t.test('what createEngine refuses, it gives back', async (t) => {
  const folder = t.testdir({ file: 'text' })
  const engine = await createEngine({ threads: 2, journal: join(folder, 'journal') })
  const before = engine.counters()
  for (let i = 0; i < 3; i++) {
    await t.rejects(createEngine({ journal: join(folder, 'journal') }), { code: 'JOURNAL_LOCKED' })
    await t.rejects(createEngine({ journal: join(folder, 'file/below') }), { code: 'FILE_WRITE_FAILED' })
  }
  t.same(engine.counters(), before)
  await engine.dispose()
})

/** What scripts/raised.mjs notes of a process, and what scripts/check-raised.mjs makes of it: the end of `npm test`. */
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { catalog } from '../../lib/errors/index.js'

const run = (folder: string, args: string[]) =>
  spawnSync(process.execPath, args, {
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: '--import=./scripts/raised.mjs', TIERED_MOE_RAISED: folder }
  })

t.test('what the library raises is noted, once, with the details it lacks', async (t) => {
  const folder = t.testdir()
  const program = `
    import { createEngine, EngineError } from 'tiered-moe'
    import { openBackend } from 'tiered-moe/kernels'
    new EngineError('CANCELLED', 'made by a test')
    for (let i = 0; i < 3; i++) await createEngine({ threads: -1 }).catch(() => {})
    try { openBackend('cpu', { isa: 'no such' }) } catch {}
  `
  const { status, stderr } = run(folder, ['--input-type=module', '-e', program])
  t.equal(status, 0, stderr)
  const [name, ...others] = readdirSync(folder)
  t.same(others, [])
  const notes = readFileSync(join(folder, name!), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  t.match(notes, [
    { code: 'VALIDATION_ERROR', place: /^dist\/esm\//, lacks: [] },
    { code: 'ISA_UNSUPPORTED', place: /^dist\/esm\//, lacks: [] }
  ])
  t.equal(notes.length, 2)
})

t.test('the check tells of every code that was not raised, and of details that were not there', async (t) => {
  const folder = t.testdir()
  const note = (code: string, lacks: string[] = []) => `${JSON.stringify({ code, place: 'lib/a.ts:1', lacks })}\n`
  const all = Object.keys(catalog).map((code) => note(code))
  const check = (notes: string[]) => {
    writeFileSync(join(folder, '1'), notes.join(''))
    return run(folder, ['scripts/check-raised.mjs'])
  }
  t.match(check(all), { status: 0, stdout: new RegExp(`${all.length} of ${all.length} codes`) })
  const without = all.filter((line) => !line.includes('"ISA_UNSUPPORTED"'))
  t.match(check(without), { status: 1, stdout: /FAILED ISA_UNSUPPORTED was raised by no test/ })
  const lacking = note('CANCELLED', ['method'])
  t.match(check([...all, lacking]), { status: 1, stdout: /FAILED CANCELLED .*without details.method at lib\/a\.ts:1/ })
})

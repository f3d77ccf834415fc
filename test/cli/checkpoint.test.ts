import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { flip, smallModel } from '../checkpoint/checkpoints.js'
import { command, jsonLines, notBuilt } from './command.js'

t.test('convert, verify, inspect, run', { skip: notBuilt }, async (t) => {
  const folder = t.testdir({ 'counts.json': '{"layers": [[1, 2, 3, 4], [4, 3, 2, 1]]}' })
  const from = smallModel(join(folder, 'model.gguf'))
  const to = join(folder, 'checkpoint')
  const made = await command(['convert', from, to, '--tiers', 'measured', '--statistics', join(folder, 'counts.json')])
  t.equal(made.code, 0, made.stderr)
  t.equal(made.stderr, '', 'no progress in a pipe')
  t.match(made.stdout, /checkpoint: [\d.]+ KiB, 5 files, .+\n\ntier +placement +experts +size +budget\nhot +hot +4 /)
  const again = await command([
    'convert',
    from,
    to,
    '--tiers',
    'measured',
    '--statistics',
    join(folder, 'counts.json'),
    '--json'
  ])
  t.match(jsonLines(again.stdout), [{ written: 0, kept: 5, tiers: [{ name: 'hot' }, { name: 'cold' }] }])
  const other = await command(['convert', from, to])
  t.equal(other.code, 2)
  t.match(other.stderr, /code: VALIDATION_ERROR\n/)

  const sound = await command(['verify', to])
  t.equal(sound.code, 0)
  t.match(sound.stdout, /5 files, 8 experts, .+ all as the manifest states/)
  const shown = await command(['inspect', to])
  t.equal(shown.code, 0)
  t.match(shown.stdout, /tiered checkpoint 1\.0, .+ 5 files\n/)
  t.match(shown.stdout, /layout +rows16\.1\n/)
  t.match(shown.stdout, /layer +gate up down +expert +hot +cold +version\n0 +Q8_0 Q8_0 F16 .+ 2 +2 +0\n/)
  const json = JSON.parse((await command(['inspect', to, '--json'])).stdout)
  t.match(json.manifest, {
    version: '1.0',
    tiers: [
      { name: 'hot', experts: 4 },
      { name: 'cold', experts: 4 }
    ]
  })
  const args = ['-p', 'then', '-n', '6', '--ignore-eos', '--json', '--seed', '3']
  const tokens = ({ stdout }: { stdout: string }) => jsonLines(stdout).flatMap(({ token }) => token ?? [])
  t.same(tokens(await command(['run', to, ...args])), tokens(await command(['run', from, ...args])))

  flip(join(to, 'experts/cold/layer-001.bin'), 4)
  flip(join(to, 'experts/hot/layer-001.bin'), 4)
  const damaged = await command(['verify', to, '--json'])
  t.equal(damaged.code, 1)
  t.match(jsonLines(damaged.stdout)[0]?.damage, [
    {
      code: 'MODEL_CORRUPTED',
      file: 'experts/hot/layer-001.bin',
      layer: 1,
      expert: 0,
      fix: /tiered-moe convert model\.gguf/
    },
    { file: 'experts/hot/layer-001.bin' },
    { file: 'experts/cold/layer-001.bin', expert: 2 },
    { file: 'experts/cold/layer-001.bin' }
  ])
  const text = await command(['verify', to])
  t.equal(text.stdout.split('\n').length, 5, 'one line each')
  t.match(text.stderr, /is damaged: .+ \(and 3 more\)\n {2}code: MODEL_CORRUPTED\n {2}what to do: /)
  rmSync(join(to, 'manifest.json'))
  t.match((await command(['verify', to])).stderr, /code: MODEL_NOT_FOUND/)
  t.match((await command(['inspect', to])).stderr, /code: MODEL_FILE_INVALID/)
  writeFileSync(join(to, 'manifest.json'), '{}')
  t.match((await command(['inspect', to])).stderr, /code: CHECKPOINT_INVALID/)
})

t.test('convert by the use on a text', { skip: notBuilt }, async (t) => {
  const folder = t.testdir({ 'text.txt': 'ROMEO: then the other one in the inn. '.repeat(30) })
  const to = join(folder, 'to')
  const { code, stdout, stderr } = await command([
    'convert',
    'tiny-shakespeare',
    to,
    '--text',
    join(folder, 'text.txt')
  ])
  t.equal(code, 0, stderr)
  t.match(stdout, /hot +hot +32 .*\ncold +cold +32 /, 'the more used half of each layer')
  const twice = await command(['convert', 'tiny-shakespeare', to, '--text', join(folder, 'text.txt'), '--json'])
  t.match(jsonLines(twice.stdout), [{ written: 0, kept: 9 }], 'the same text, the same tiers')
  const none = await command(['convert', 'tiny-shakespeare', to, '--text', join(folder, 'none.txt')])
  t.equal(none.code, 2)
  const both = ['--text', join(folder, 'text.txt'), '--statistics', join(folder, 'text.txt')]
  t.equal((await command(['convert', 'tiny-shakespeare', to, ...both])).code, 2)
})

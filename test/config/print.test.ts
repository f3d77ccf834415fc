// What `config print` writes is the same configuration again.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { loadRuntimeConfig } from 'tiered-moe'
import { parse } from 'yaml'
import { command, notBuilt } from '../cli/command.js'

const texts = [
  '',
  'engine: { threads: 2, journal: { path: j, on_damage: salvage }, staging: { folder: s, bytes: 1GiB } }',
  [
    'engine: { backend: webgpu, gpu: { memory: 2GiB, timestamps: true } }',
    'models:',
    '  - id: a',
    '    tiers: [{ name: "yes", placement: hot, experts: { 0: [1, "4-7"], 1-2: [0] } }, { name: b, experts: rest }]',
    '    tier_sets: { mine: [a, b], other: max }',
    '    tier_folders: { Some_Tier: false, rest: "a: b #c" }',
    '    starvation: true',
    '    gpu_memory: 1GiB',
    '  - id: "7"',
    '    latency_budget_ms: 0.5',
    '    archive: { url: "http://host/x", timeouts: { total_ms: 5 }, retry: { delays_ms: [0.5] } }',
    'network: { retry: { attempts: 9 } }',
    'timeouts: { request_ms: 60000, load_ms: 1 }',
    'telemetry: { log_prompts: true }'
  ].join('\n')
]

t.test('round trip', { skip: notBuilt }, async (t) => {
  const folder = t.testdir()
  const path = join(folder, 'printed.yaml')
  for (const text of texts) {
    const given = join(folder, 'given.yaml')
    writeFileSync(given, text)
    for (const form of [[], ['--json'], ['--sources']]) {
      const { code, stdout, stderr } = await command(['config', 'print', given, ...form])
      t.equal(code, 0, stderr)
      writeFileSync(path, stdout)
      const printed = await loadRuntimeConfig({ path, env: {} })
      const loaded = await loadRuntimeConfig({ path: given, env: {} })
      t.same(printed.config, loaded.config, `${text.slice(0, 30)} ${form.join()}`)
      if (form.length > 0) continue
      const again = await command(['config', 'print', path])
      t.equal(again.stdout, stdout, 'printed again it is the same text')
    }
  }
})

t.test('sources', { skip: notBuilt }, async (t) => {
  const path = join(
    t.testdir({ 'c.yaml': 'engine:\n  threads: 2\nenvironments:\n  e:\n    models: [{ id: a }]' }),
    'c.yaml'
  )
  const env = { TIERED_MOE_ENV: 'e', TIERED_MOE__ENGINE__ISA: 'scalar' }
  const { stdout } = await command(['config', 'print', path, '--sources'], { env })
  t.match(stdout, `threads: 2 # ${path}:2\n`)
  t.match(stdout, 'isa: scalar # env:TIERED_MOE__ENGINE__ISA\n')
  t.match(stdout, 'id: a # environments.e:5\n')
  t.match(stdout, 'max_batch_tokens: 512 # default\n')
  const json = await command(['config', 'print', path, '--sources', '--json'], { env })
  const { config, sources } = JSON.parse(json.stdout)
  t.match(config, { engine: { threads: 2 }, models: [{ id: 'a' }] })
  t.match(sources, {
    'engine.threads': `${path}:2`,
    'models[0].id': 'environments.e:5',
    'models[0].kv_type': 'default'
  })
})

t.test('no secrets', { skip: notBuilt }, async (t) => {
  const text =
    'models: [{ archive: { url: "https://host/a?sig=hunter2", headers: { Authorization: Bearer hunter2 } } }]'
  const path = join(t.testdir({ 'c.yaml': text }), 'c.yaml')
  for (const form of [[], ['--json'], ['--sources'], ['--sources', '--json']]) {
    const { stdout, stderr } = await command(['config', 'print', path, ...form])
    t.notMatch(stdout + stderr, /hunter2/)
  }
  const { stdout } = await command(['config', 'print', path])
  t.match(parse(stdout).models[0].archive, { url: 'https://host/a?(hidden)', headers: { Authorization: '(hidden)' } })
})

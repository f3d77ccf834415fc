// Which source wins, what is merged and what is replaced, and where each setting says that it came from.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { loadRuntimeConfig } from 'tiered-moe'

t.test('each source over each other', async (t) => {
  // What each source says of the same setting, in their order; the last that says something wins.
  const sources = [
    'default',
    'text:1',
    'environments.e:3',
    'env:TIERED_MOE__ENGINE__MAX_BATCH_TOKENS',
    'option'
  ] as const
  const values = [512, 10, 20, 30, 40]
  for (let said = 0; said < 16; said++) {
    const says = (i: number): boolean => (said & (1 << (i - 1))) !== 0
    const text = [
      says(1) ? 'engine: { max_batch_tokens: 10 }' : '',
      'environments:',
      says(2) ? '  e: { engine: { max_batch_tokens: 20 } }' : '  e:'
    ].join('\n')
    const { config, source } = await loadRuntimeConfig({
      text,
      environment: 'e',
      env: says(3) ? { TIERED_MOE__ENGINE__MAX_BATCH_TOKENS: '30' } : {},
      options: says(4) ? { engine: { maxBatchTokens: 40 } } : {}
    })
    const winner = [4, 3, 2, 1].find(says) ?? 0
    t.equal(config.engine.maxBatchTokens, values[winner], `${said}`)
    t.equal(source('engine.max_batch_tokens'), sources[winner])
    t.equal(source('engine.maxBatchTokens'), sources[winner])
  }
})

const base = `
engine:
  journal: { path: j, sync_ms: 5 }
  threads: 2
models:
  - id: a
    archive: { url: "http://host/a?signature=x", retry: { attempts: 2 } }
  - id: b
    tiers: [{ name: t, experts: { 0: [1], 1-2: [0] } }]
    tier_folders: { Some_Tier: false }
network:
  retry: { attempts: 9, jitter_ms: 0 }
  circuit_breaker: { failure_threshold: 3 }
environments:
  lists:
    models: [{ id: c }]
  back:
    engine: { journal: null, threads: }
  deep:
    engine: { journal: { sync_ms: 7 } }
  form:
    engine: { journal: elsewhere }
`
const load = (environment?: string, env: Record<string, string> = {}) =>
  loadRuntimeConfig({ text: base, env, ...(environment && { environment }) })

t.test('mappings are merged, lists and values replaced, null is the default', async (t) => {
  const plain = await load()
  t.match(plain.config.engine, { journal: { path: 'j', syncMs: 5 }, threads: 2 })
  t.same(plain.environments, ['lists', 'back', 'deep', 'form'])
  t.equal(plain.environment, undefined)
  t.equal(plain.source('engine.journal.sync_ms'), 'text:3')
  t.equal(plain.source('engine.journal.segment_bytes'), 'default')

  const lists = await load(undefined, { TIERED_MOE_ENV: 'lists' })
  t.equal(lists.environment, 'lists')
  t.same(
    lists.config.models.map(({ id }) => id),
    ['c']
  )
  t.equal(lists.source('models[0].id'), 'environments.lists:16')
  t.equal(lists.source('models[1].id'), 'default', 'what was replaced is nowhere')

  const back = await load('back')
  t.notOk('journal' in back.config.engine)
  t.notOk('threads' in back.config.engine)
  t.equal(back.source('engine.journal.path'), 'default')

  const deep = await load('deep')
  t.match(deep.config.engine.journal, { path: 'j', syncMs: 7 })
  t.equal(deep.source('engine.journal.path'), 'text:3')
  t.equal(deep.source('engine.journal.sync_ms'), 'environments.deep:20')

  const form = await load('form')
  t.equal(form.config.engine.journal, 'elsewhere')
})

t.test('names that people give stay as they are', async (t) => {
  const { config } = await load()
  t.match(config.models[1], { tierFolders: { Some_Tier: false } })
  t.same((config.models[1]!.tiers as object[])[0], { name: 't', experts: { 0: [1], '1-2': [0] } })
})

t.test('network is what archives take that say nothing themselves', async (t) => {
  const { config, source } = await load()
  t.match(config.models[0]!.archive, { retry: { attempts: 2, jitterMs: 0 }, breaker: { failureThreshold: 3 } })
  t.match(config.models[1]!.archive, {
    retry: { attempts: 9, jitterMs: 0 },
    breaker: { failureThreshold: 3, cooldownMs: 60_000 }
  })
  t.equal(source('models[0].archive.retry.attempts'), 'text:7')
  t.equal(source('models[0].archive.retry.jitter_ms'), 'text:12', 'where it was written')
  t.equal(source('models[1].archive.breaker.failure_threshold'), 'text:13')
})

t.test('variables', async (t) => {
  const cases: [string, string, (config: Awaited<ReturnType<typeof load>>['config']) => unknown, unknown][] = [
    ['ENGINE__SIGNALS', 'true', ({ engine }) => engine.signals, true],
    ['ENGINE__MEMORY', '2GiB', ({ engine }) => engine.memory, '2GiB'],
    ['ENGINE__MEMORY', '1e9', ({ engine }) => engine.memory, 1e9],
    ['ENGINE__AUDIT', '/a b: c #d', ({ engine }) => engine.audit, '/a b: c #d'],
    ['ENGINE__AUDIT', '{ path: x, sync_ms: 3 }', ({ engine }) => engine.audit, { path: 'x', syncMs: 3 }],
    ['ENGINE__JOURNAL__SYNC_MS', '1', ({ engine }) => (engine.journal as { syncMs?: number }).syncMs, 1],
    ['ENGINE__THREADS', '', ({ engine }) => engine.threads, undefined],
    ['MODELS__0__ID', '"7"', ({ models }) => models[0]!.id, '7'],
    ['MODELS__1__ID', 'z', ({ models }) => models.map(({ id }) => id), ['a', 'z']],
    ['MODELS__2__ID', 'z', ({ models }) => models.map(({ id }) => id), ['a', 'b', 'z']],
    [
      'MODELS',
      '[{ id: q, kv_type: f32 }]',
      ({ models }) => models.map(({ id, kvType }) => [id, kvType]),
      [['q', 'f32']]
    ],
    ['MODELS__0__TIER_SETS__MINE', '[x, y]', ({ models }) => models[0]!.tierSets, { mine: ['x', 'y'] }],
    ['NETWORK__RETRY__DELAYS_MS', '[1, 2]', ({ network }) => network.retry.delaysMs, [1, 2]]
  ]
  for (const [name, value, read, expected] of cases) {
    const { config } = await load(undefined, { [`TIERED_MOE__${name}`]: value })
    t.same(read(config), expected, `${name}=${value}`)
  }
  // As many levels as parts would take minutes.
  const long = `TIERED_MOE__${'A__'.repeat(100_000)}`
  await t.rejects(load(undefined, { [long]: '1' }), { code: 'CONFIG_INVALID', details: { source: `env:${long}` } })
  const { source, config } = await load(undefined, { TIERED_MOE__MODELS__1__MEMORY: '1GiB', TIERED_MOE_ISA: 'scalar' })
  t.equal(source('models[1].memory'), 'env:TIERED_MOE__MODELS__1__MEMORY')
  t.equal(source('models[1].id'), 'text:8', 'the item is merged')
  t.equal(config.engine.isa, 'auto', 'variables with one underscore are something else')
  process.env.TIERED_MOE__ENGINE__THREADS = '6'
  t.teardown(() => delete process.env.TIERED_MOE__ENGINE__THREADS)
  t.equal((await loadRuntimeConfig({ text: '' })).config.engine.threads, 6, 'those of the process by default')
  t.equal((await loadRuntimeConfig({ text: '', env: process.env })).config.engine.threads, 6)
})

t.test('which file', async (t) => {
  const folder = t.testdir({
    'tiered-moe.yml': 'engine: { threads: 3 }',
    'tiered-moe.json': '{"engine": {"threads": 4}}'
  })
  const before = process.cwd()
  t.teardown(() => process.chdir(before))
  process.chdir(folder)
  const threads = async (request: object) => (await loadRuntimeConfig({ env: {}, ...request })).config.engine.threads
  t.equal(await threads({}), 3)
  writeFileSync('tiered-moe.yaml', '')
  t.equal(await threads({}), undefined, 'an empty one is one')
  t.equal(await threads({ env: { TIERED_MOE_CONFIG: 'tiered-moe.json' } }), 4)
  t.equal(await threads({ env: { TIERED_MOE_CONFIG: 'absent' }, path: join(folder, 'tiered-moe.json') }), 4)
  const { file, source } = await loadRuntimeConfig({ path: 'tiered-moe.json', env: {} })
  t.equal(file, 'tiered-moe.json')
  t.equal(source('engine.threads'), 'tiered-moe.json:1')
  process.chdir(t.testdir({}))
})

t.test('JSON with tabs, a mark of byte order, references', async (t) => {
  const folder = t.testdir({ 'a.json': '\ufeff{\n\t"engine": {\n\t\t"threads": 5\n\t}\n}\n' })
  const { config, source } = await loadRuntimeConfig({ path: join(folder, 'a.json'), env: {} })
  t.equal(config.engine.threads, 5)
  t.equal(source('engine.threads'), `${join(folder, 'a.json')}:3`)
  const text = 'models:\n  - &m { id: a, memory: 1GiB }\nenvironments:\n  e: { models: [*m] }'
  t.same((await loadRuntimeConfig({ text, env: {}, environment: 'e' })).config.models[0]!.memory, '1GiB')
})

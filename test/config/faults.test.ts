// Every fault says where it is, what was found there and what is allowed; of a file with its line and column.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { inspect } from 'node:util'
import t from 'tap'
import type { ConfigRequest } from 'tiered-moe'
import { isEngineError, loadRuntimeConfig } from 'tiered-moe'

const failure = async (request: ConfigRequest) => {
  try {
    await loadRuntimeConfig({ env: {}, ...request })
  } catch (error) {
    if (isEngineError(error)) return error
    throw error
  }
  throw new Error('it was taken')
}

interface Expected {
  path: string
  found: string
  allowed: RegExp
  /** Line and column. */
  at?: [number, number]
  nearest?: string
}

/** A text, and its first fault. */
const inText: [string, Expected][] = [
  [
    'engine: { threads: 0 }',
    { path: 'engine.threads', found: '0', allowed: /^an integer from 1 to 1024$/, at: [1, 11] }
  ],
  ['engine:\n  threads: many', { path: 'engine.threads', found: '"many"', allowed: /integer/, at: [2, 3] }],
  ['engine:\n  threads: 1.5', { path: 'engine.threads', found: '1.5', allowed: /integer/, at: [2, 3] }],
  ['engine: 5', { path: 'engine', found: '5', allowed: /max_batch_tokens/, at: [1, 1] }],
  ['engine: [1]', { path: 'engine', found: 'an array of 1', allowed: /backend/, at: [1, 1] }],
  ['engine:\n  backend: gpu', { path: 'engine.backend', found: '"gpu"', allowed: /cpu, webgpu or cuda/, at: [2, 3] }],
  ['engine:\n  isa: sse', { path: 'engine.isa', found: '"sse"', allowed: /avx512/, at: [2, 3] }],
  ['engine: {memory: much}', { path: 'engine.memory', found: '"much"', allowed: /2GiB/, at: [1, 10] }],
  ['engine: {memory: -1}', { path: 'engine.memory', found: '-1', allowed: /bytes/, at: [1, 10] }],
  [
    'engine: {max_batch_tokens: 1e9}',
    { path: 'engine.max_batch_tokens', found: '1000000000', allowed: /65536/, at: [1, 10] }
  ],
  ['engine: {journal: 7}', { path: 'engine.journal', found: '7', allowed: /path of a folder.*sync_ms/, at: [1, 10] }],
  [
    'engine:\n  journal: { path: j, sync_ms: -1 }',
    { path: 'engine.journal.sync_ms', found: '-1', allowed: /from 0 to 60000/, at: [2, 23] }
  ],
  [
    'engine:\n  journal: { sync_ms: 1 }',
    { path: 'engine.journal.path', found: 'undefined', allowed: /path/, at: [2, 3] }
  ],
  [
    'engine:\n  journal: { path: j, on_damage: ignore }',
    { path: 'engine.journal.on_damage', found: '"ignore"', allowed: /refuse or salvage/, at: [2, 23] }
  ],
  [
    'engine: {staging: {folder: x}}',
    { path: 'engine.staging.bytes', found: 'undefined', allowed: /2GiB/, at: [1, 10] }
  ],
  [
    'engine: {routing_seed: abc}',
    { path: 'engine.routing_seed', found: '"abc"', allowed: /32 hexadecimal/, at: [1, 10] }
  ],
  ['engine: {signals: "yes"}', { path: 'engine.signals', found: '"yes"', allowed: /true or false/, at: [1, 10] }],
  ['engine: {drain_ms: -5}', { path: 'engine.drain_ms', found: '-5', allowed: /milliseconds/, at: [1, 10] }],
  [
    'engine: {gpu: {timeout_ms: 0}}',
    { path: 'engine.gpu.timeout_ms', found: '0', allowed: /number from 1/, at: [1, 16] }
  ],
  [
    'engine: {gpu: {memory: 1GiB}}',
    { path: 'engine.gpu', found: 'an object', allowed: /only with the backend webgpu/, at: [1, 10] }
  ],
  ['models: x', { path: 'models', found: '"x"', allowed: /list of at most 64/, at: [1, 1] }],
  ['models: [{}, 3]', { path: 'models[1]', found: '3', allowed: /tier_set/, at: [1, 14] }],
  ['models:\n  - id: ""', { path: 'models[0].id', found: '""', allowed: /1 to 200 characters/, at: [2, 5] }],
  ['models:\n  - kv_type: q8', { path: 'models[0].kv_type', found: '"q8"', allowed: /f16 or f32/, at: [2, 5] }],
  ['models:\n  - id: a\n  - id: a', { path: 'models[1].id', found: '"a"', allowed: /no other model/, at: [3, 5] }],
  [
    'models: [{ tier_set: max, latency_budget_ms: 9 }]',
    { path: 'models[0].latency_budget_ms', found: '9', allowed: /only without tier_set/, at: [1, 27] }
  ],
  [
    'models: [{ gpu_memory: 1GiB }]',
    { path: 'models[0].gpu_memory', found: '"1GiB"', allowed: /only with the backends/, at: [1, 12] }
  ],
  [
    'models: [{ starvation: { window_steps: 0 } }]',
    { path: 'models[0].starvation.window_steps', found: '0', allowed: /integer from 1/, at: [1, 26] }
  ],
  [
    'models: [{ archive: { url: ftp://x } }]',
    { path: 'models[0].archive.url', found: '"ftp://x"', allowed: /http or https/, at: [1, 23] }
  ],
  [
    'models: [{ archive: { headers: { a: b } } }]',
    { path: 'models[0].archive.headers', found: 'an object', allowed: /with the url/, at: [1, 23] }
  ],
  [
    'models: [{ archive: { timeouts: { total_ms: 0 } } }]',
    { path: 'models[0].archive.timeouts.total_ms', found: '0', allowed: /above 0/, at: [1, 35] }
  ],
  [
    'models: [{ tier_sets: { Big: max } }]',
    { path: 'models[0].tier_sets.Big', found: '"max"', allowed: /names of a to z/, at: [1, 25] }
  ],
  [
    'network: { retry: { attempts: 0 } }',
    { path: 'network.retry.attempts', found: '0', allowed: /from 1 to 100/, at: [1, 21] }
  ],
  [
    'network: { retry: { delays_ms: [1, x] } }',
    { path: 'network.retry.delays_ms[1]', found: '"x"', allowed: /milliseconds|number/, at: [1, 36] }
  ],
  [
    'network: { circuit_breaker: { cooldown_ms: 0 } }',
    { path: 'network.circuit_breaker.cooldown_ms', found: '0', allowed: /above 0/, at: [1, 31] }
  ],
  [
    'timeouts:\n  request_ms: 5\n  inference_ms: 5',
    { path: 'timeouts.inference_ms', found: '5', allowed: /less than 5/, at: [3, 3] }
  ],
  [
    'timeouts: { load_ms: soon }',
    { path: 'timeouts.load_ms', found: '"soon"', allowed: /milliseconds above 0/, at: [1, 13] }
  ],
  [
    'telemetry: { buffered_events: 0 }',
    { path: 'telemetry.buffered_events', found: '0', allowed: /integer from 1 to 1000000/, at: [1, 14] }
  ],
  // Unknown names, with the nearest known one.
  [
    'engin: {}',
    {
      path: 'engin',
      found: 'not a setting',
      allowed: /^engine, models, network, .*environments$/,
      at: [1, 1],
      nearest: 'engine'
    }
  ],
  [
    'enviroments: {}',
    { path: 'enviroments', found: 'not a setting', allowed: /engine/, at: [1, 1], nearest: 'environments' }
  ],
  [
    'engine:\n  maxBatchTokens: 4',
    {
      path: 'engine.maxBatchTokens',
      found: 'not a setting',
      allowed: /max_batch_tokens/,
      at: [2, 3],
      nearest: 'max_batch_tokens'
    }
  ],
  ['engine: { logger: x }', { path: 'engine.logger', found: 'not a setting', allowed: /journal/, at: [1, 11] }],
  [
    'models: [{ contextlength: 4 }]',
    {
      path: 'models[0].contextlength',
      found: 'not a setting',
      allowed: /context_length/,
      at: [1, 12],
      nearest: 'context_length'
    }
  ],
  [
    'models: [{ archive: { __proto__: { url: x } } }]',
    { path: 'models[0].archive.__proto__', found: 'not a setting', allowed: /cold_folder/, at: [1, 23] }
  ],
  [
    'network: { breaker: {} }',
    { path: 'network.breaker', found: 'not a setting', allowed: /circuit_breaker/, at: [1, 12] }
  ],
  // In the overlays too, in those that are not used as well.
  [
    'environments:\n  a:\n    engine: { threds: 4 }',
    {
      path: 'environments.a.engine.threds',
      found: 'not a setting',
      allowed: /threads/,
      at: [3, 15],
      nearest: 'threads'
    }
  ],
  ['environments: 3', { path: 'environments', found: '3', allowed: /names/, at: [1, 1] }],
  ['environments:\n  a: [1]', { path: 'environments.a', found: 'an array of 1', allowed: /settings/, at: [2, 3] }],
  ['- 1', { path: '', found: 'an array of 1', allowed: /settings/, at: [1, 1] }]
]

t.test('in a text', async (t) => {
  t.ok(inText.length >= 40)
  for (const [text, { path, found, allowed, at, nearest }] of inText) {
    const { code, details, message, exitCode } = await failure({ text })
    const [line, column] = at ?? []
    t.match(
      { code, exitCode, ...details },
      { code: 'CONFIG_INVALID', exitCode: 2, path, found, allowed, source: 'text' },
      text
    )
    t.same([details.line, details.column, details.nearest], [line, column, nearest], text)
    t.ok(message.startsWith(`text:${line}:${column}: `), message)
  }
})

t.test('an overlay, a variable, an option', async (t) => {
  const text = 'engine: { threads: 2 }\nenvironments:\n  a:\n    engine:\n      threads: 0'
  t.equal((await loadRuntimeConfig({ text, env: {} })).config.engine.threads, 2)
  t.match((await failure({ text, environment: 'a' })).details, {
    path: 'environments.a.engine.threads',
    source: 'text',
    line: 5,
    column: 7
  })
  const variables: [Record<string, string>, string, string][] = [
    [{ TIERED_MOE__ENGINE__THREADS: '0' }, 'engine.threads', '0'],
    [{ TIERED_MOE__ENGINE__THREAD: '1' }, 'engine.thread', 'not a setting'],
    [{ TIERED_MOE__SERVICE__PORT: '1' }, 'service', 'not a setting'],
    [{ TIERED_MOE__: '1' }, '', 'not a setting'],
    [{ TIERED_MOE__CONSTRUCTOR__NAME: '1' }, 'constructor', 'not a setting'],
    [{ TIERED_MOE__ENVIRONMENTS__A: '1' }, 'environments', 'not a setting'],
    [{ TIERED_MOE__MODELS__0__SCRUB: '-1' }, 'models[0].scrub', '-1'],
    [{ TIERED_MOE__MODELS__2__ID: 'x' }, 'models[0]', 'undefined'],
    [{ TIERED_MOE__MODELS__X: '1' }, 'models', 'an object'],
    [{ TIERED_MOE__ENGINE__THREADS__X: '1' }, 'engine.threads', 'an object']
  ]
  for (const [env, path, found] of variables) {
    const name = Object.keys(env)[0]!
    t.match((await failure({ text: '', env })).details, { source: `env:${name}`, path, found, line: undefined }, name)
  }
  const options: [object, string][] = [
    [{ engine: { maxBatchTokens: 0 } }, 'engine.maxBatchTokens'],
    [{ engine: { max_batch_tokens: 1 } }, 'engine.max_batch_tokens'],
    [{ models: [{ archive: { url: 'x' } }] }, 'models[0].archive.url']
  ]
  for (const [given, path] of options)
    t.match((await failure({ text: '', options: given })).details, { source: 'option', path })
  const hostile = {
    get engine() {
      throw new RangeError('mine')
    }
  }
  const circle: Record<string, unknown> = {}
  circle.engine = circle
  for (const given of [hostile, circle])
    t.match(await failure({ text: '', options: given as object }), {
      code: 'CONFIG_INVALID',
      details: { source: 'option' }
    })
  t.match(await failure({ text: '', options: hostile as object }), { cause: { message: 'mine' } })
  t.equal((await failure({ path: '' })).code, 'VALIDATION_ERROR')
})

t.test('all faults at once, the first is the error', async (t) => {
  const text = 'engine: { threads: 0, isa: x, bogus: 1 }\nmodels: [{ scrub: -1 }]'
  const { details } = await failure({ text, env: { TIERED_MOE__TELEMETRY__LOG_PROMPTS: 'maybe' } })
  const faults = details.faults as { path: string; source: string; line?: number }[]
  t.same(
    faults.map(({ path, source, line }) => [path, source, line]),
    [
      ['engine.bogus', 'text', 1],
      ['engine.threads', 'text', 1],
      ['engine.isa', 'text', 1],
      ['models[0].scrub', 'text', 2],
      ['telemetry.log_prompts', 'env:TIERED_MOE__TELEMETRY__LOG_PROMPTS', undefined]
    ]
  )
  t.equal(details.path, 'engine.bogus')
})

t.test('texts that are no configuration', async (t) => {
  const bomb = [
    'a: &a [x,x,x,x,x,x,x,x,x]',
    ...'bcdefg'.split('').map((name, i) => `${name}: &${name} [${Array(9).fill(`*${'abcdef'[i]}`).join(',')}]`)
  ]
  // Each alias stands for a list alone: no text, but copies of it would be.
  const wide = (uses: number) => {
    const sets = Array.from({ length: uses }, (_, i) => `s${i}: *a`)
    return `engine: { threads: &a [${Array(20_000).fill('x').join(',')}] }\nmodels: [{ tier_sets: {${sets.join(', ')}} }]`
  }
  const cases: [string, RegExp, number | null][] = [
    ['- '.repeat(60_000), /nested too deeply/, null],
    [`engine: [1, 2${']'.repeat(100_000)}`, /./, 1],
    ['? '.repeat(60_000), /nested too deeply/, null],
    ['engine: {', /./, 1],
    ['engine: "x', /quote/i, 1],
    ['engine:\n\t- x', /tab/i, 2],
    ['engine: 1\nengine: 2', /^the key engine is there twice$/, 2],
    [`engine:\n  ? [1]\n  : 2`, /./, 2],
    ['{"engine": {"threads": 2,}, "x" 1}', /./, 1],
    ['a: 1\n---\nb: 2', /more than one document/, 2],
    ['engine: !secret x', /tag/i, 1],
    ['engine: *nowhere', /alias/i, null],
    [bomb.join('\n'), /alias/i, null],
    [wide(90), /aliases multiply/, null],
    ['['.repeat(20_000), /./, null],
    [`#${'x'.repeat(2 ** 17)}`, /larger than 131072 bytes/, null]
  ]
  for (const [text, reason, line] of cases) {
    const { code, details, exitCode } = await failure({ text })
    t.match(
      { code, exitCode, ...details },
      { code: 'CONFIG_PARSE_FAILED', exitCode: 2, source: 'text', reason },
      text.slice(0, 40)
    )
    if (line !== null) t.equal(details.line, line, text.slice(0, 40))
  }
  t.match(await failure({ text: wide(2) }), { code: 'CONFIG_INVALID', details: { path: 'engine.threads' } })
  const { config } = await loadRuntimeConfig({ text: 'engine: { threads: &a 2 }\nserver: { port: *a }', env: {} })
  t.match([config.engine.threads, config.server.port], [2, 2], 'an alias is what it stands for')
})

t.test('large texts end soon', async (t) => {
  const keys = Array.from({ length: 8000 }, (_, i) => `k${i}: ${i}`).join('\n')
  const { code, details } = await failure({ text: keys })
  t.equal(code, 'CONFIG_INVALID')
  t.equal((details.faults as unknown[]).length, 100)
  const items = `models: [{ tiers: [{ name: a, experts: [${Array(50_000).fill(1).join(',')}] }] }]`
  t.equal((await loadRuntimeConfig({ text: items, env: {} })).config.models.length, 1)
  t.equal(
    (await failure({ text: `network: { retry: { delays_ms: [${Array(50_000).fill('x').join(',')}] } }` })).code,
    'CONFIG_INVALID'
  )
})

t.test('files that are not there, or no files', async (t) => {
  const folder = t.testdir()
  const absent = join(folder, 'absent.yaml')
  t.match(await failure({ path: absent }), {
    code: 'CONFIG_NOT_FOUND',
    exitCode: 2,
    details: { path: absent, tried: [absent] }
  })
  t.match(await failure({ env: { TIERED_MOE_CONFIG: absent } }), { code: 'CONFIG_NOT_FOUND' })
  mkdirSync(join(folder, 'folder'))
  t.equal((await failure({ path: join(folder, 'folder') })).code, 'FILE_READ_FAILED')
  writeFileSync(join(folder, 'latin1.yaml'), Buffer.from([0x65, 0x3a, 0x20, 0xe9]))
  t.match(await failure({ path: join(folder, 'latin1.yaml') }), {
    code: 'CONFIG_PARSE_FAILED',
    details: { reason: /UTF-8/ }
  })
  t.match(await failure({ path: '/dev/zero' }), { code: 'CONFIG_PARSE_FAILED', details: { reason: /larger/ } })
})

t.test('an environment that there is not', async (t) => {
  const text = 'environments: { production: {}, development: }'
  t.match(await failure({ text, env: { TIERED_MOE_ENV: 'prod' } }), {
    code: 'CONFIG_UNKNOWN_ENVIRONMENT',
    exitCode: 2,
    details: { environment: 'prod', known: ['production', 'development'] }
  })
  t.match(await failure({ text: '', environment: '__proto__' }), {
    code: 'CONFIG_UNKNOWN_ENVIRONMENT',
    details: { known: [] }
  })
})

t.test('no fault shows a secret', async (t) => {
  const secret = 'hunter2'
  const texts = [
    `models: [{ archive: { url: "http://me:${secret}@host/" } }]`,
    `models: [{ archive: { url: "ftp://host/?signature=${secret}" } }]`,
    `models: [{ archive: { url: "http://host/", headers: { "a b": ${secret} } } }]`,
    `models: [{ archive: { url: "http://host/", headers: ${secret} } }]`,
    `server: { keys: ${secret} }`,
    `server: { keys: [${secret}] }`,
    `server: { keys: [{ id: a, sha256: ${secret} }] }`,
    `server: { keys: [{ id: a, env: [${secret}] }] }`,
    `server: { keys: [{ id: a, file: x, admin: ${secret} }] }`,
    `server: { keys: [{ id: a, file: x, models: ${secret} }] }`,
    `server: { keys: [{ id: a, file: x, quota: { concurrent: ${secret} } }] }`
  ]
  const variables = { TIERED_MOE__SERVER__KEYS: secret, TIERED_MOE__SERVER__KEYS__0: secret }
  const requests: ConfigRequest[] = [
    ...texts.map((text) => ({ text })),
    ...Object.entries(variables).map(([name, value]) => ({ text: '', env: { [name]: value } })),
    { text: '', options: { server: { keys: [secret] } } as object }
  ]
  for (const request of requests) {
    const error = await failure(request)
    t.equal(error.code, 'CONFIG_INVALID')
    t.notOk(inspect(error, { depth: 9 }).includes(secret), JSON.stringify(request))
  }
  const { details } = await failure({ text: 'server: { keys: [{ id: "a b", expires_at: soon, priority: 50 }] }' })
  const told = (details.faults as { path: string; found: string }[]).map(({ path, found }) => [path, found])
  t.same(told, [
    ['server.keys[0].id', '"a b"'],
    ['server.keys[0].expires_at', '"soon"'],
    ['server.keys[0].priority', '50']
  ])
})

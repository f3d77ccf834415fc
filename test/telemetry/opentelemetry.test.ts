import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'

interface Seen {
  spans: { name: string; attributes: Record<string, unknown>; status: { code: number }; id: string; parent?: string }[]
  points: { name: string; points: { attributes: Record<string, string>; value: unknown }[] }[]
}

const skip = existsSync('node_modules/@opentelemetry/sdk-metrics') ? false : 'not installed: npm ci'

function run(...args: string[]): Seen {
  const { stdout, stderr } = spawnSync(process.execPath, ['test/telemetry/opentelemetry.mjs', ...args], {
    encoding: 'utf8'
  })
  return stdout === '' ? { spans: [{ name: stderr } as Seen['spans'][number]], points: [] } : JSON.parse(stdout)
}

t.test('spans and metrics where the application has OpenTelemetry', { skip }, async (t) => {
  const { spans, points } = run()
  const [load, failed] = spans.filter(({ name }) => name === 'tiered_moe.load')
  t.match(load, { attributes: { 'tiered_moe.model': 'tiny-shakespeare' }, status: { code: 0 } })
  t.match(failed, {
    attributes: { 'tiered_moe.model': 'bad', 'error.type': 'MODEL_FILE_INVALID' },
    status: { code: 2 }
  })
  t.same(
    spans.filter(({ parent }) => parent === load!.id).map(({ name }) => name),
    ['manifest', 'base-parameters', 'experts', 'routers'].map((phase) => `tiered_moe.load.${phase}`)
  )
  const requests = spans.filter(({ name }) => name === 'tiered_moe.request')
  t.match(requests, [
    {
      attributes: {
        'tiered_moe.request_id': 'r1',
        'tiered_moe.completion_tokens': 12,
        'tiered_moe.steps': 12,
        'tiered_moe.outcome': 'length'
      }
    },
    { attributes: { 'tiered_moe.request_id': 'r2', 'error.type': 'CANCELLED' }, status: { code: 2 } }
  ])
  const pointsOf = (name: string) => points.find((metric) => metric.name === name)?.points
  t.match(pointsOf('tiered_moe_completion_tokens_total'), [{ attributes: { model: 'tiny-shakespeare' }, value: 12 }])
  t.match(
    pointsOf('tiered_moe_engine_state')?.find(({ value }) => value === 1),
    { attributes: { state: 'active' } }
  )
  t.match(pointsOf('tiered_moe_request_seconds'), [{ value: { count: 2 } }])
})

t.test('nothing where it is turned off', { skip }, async (t) => {
  t.same(run('off'), { spans: [], points: [] })
})

t.test('nothing where it is not installed', async (t) => {
  // The package as a user has it: its dependencies beside it, but not OpenTelemetry.
  const dir = mkdtempSync(join(tmpdir(), 'tiered-moe-plain-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const home = join(dir, 'node_modules/tiered-moe')
  mkdirSync(home, { recursive: true })
  for (const part of ['dist', 'models', 'package.json', 'addon.cjs', 'webgpu.cjs'])
    cpSync(part, join(home, part), { recursive: true })
  symlinkSync(join(process.cwd(), 'build'), join(home, 'build'))
  const { dependencies } = JSON.parse(readFileSync('package.json', 'utf8')) as { dependencies: Record<string, string> }
  for (const dependency of new Set(Object.keys(dependencies).map((name) => name.split('/')[0]!))) {
    symlinkSync(join(process.cwd(), 'node_modules', dependency), join(dir, 'node_modules', dependency))
  }
  const script = `import { createEngine } from 'tiered-moe'
    const absent = await import('@opentelemetry/api').catch((error) => error.code)
    const engine = await createEngine({ threads: 1 })
    const { id: model } = await engine.loadModel()
    await engine.generate({ model, prompt: 'x', maxTokens: 2 })
    await engine.dispose()
    console.log(absent)`
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    cwd: dir,
    encoding: 'utf8'
  })
  t.equal(stdout, 'ERR_MODULE_NOT_FOUND\n', stderr)
})

import { join } from 'node:path'
import t from 'tap'
import { command, jsonLines, notBuilt } from './command.js'

t.test('check', { skip: notBuilt }, async (t) => {
  const folder = t.testdir({
    'good.yaml': 'engine: { threads: 2 }\nenvironments: { a: { engine: { threads: 1 } }, b: }',
    'bad.yaml': 'engine: { thread: 2, isa: x }',
    'overlay.yaml': 'environments: { a: {}, b: { engine: { threads: 0 } } }',
    'torn.yaml': 'engine: {'
  })
  const check = (...args: string[]) => command(['config', 'check', ...args])
  const good = await check(join(folder, 'good.yaml'))
  t.match(good, { code: 0, stdout: `${join(folder, 'good.yaml')}: sound, with the environments a, b\n`, stderr: '' })
  t.match(JSON.parse((await check(join(folder, 'good.yaml'), '--json')).stdout), {
    sound: true,
    environments: ['a', 'b']
  })

  const bad = await check(join(folder, 'bad.yaml'))
  t.match(bad, { code: 2, stdout: '' })
  const lines = bad.stderr.split('\n')
  t.match(lines[0], /bad\.yaml:1:11: engine\.thread is not a setting \(did you mean threads\?\), allowed: backend/)
  t.match(lines[1], /bad\.yaml:1:22: engine\.isa is "x", allowed: auto/)
  t.match(lines[2], /^error: .*engine\.thread is not a setting, did you mean threads\? allowed/)
  t.match(lines[3], 'code: CONFIG_INVALID')
  const json = await check(join(folder, 'bad.yaml'), '--json')
  t.match(JSON.parse(json.stderr), {
    code: 'CONFIG_INVALID',
    details: { path: 'engine.thread', faults: [{}, { path: 'engine.isa' }] }
  })

  const overlay = await check(join(folder, 'overlay.yaml'))
  t.match(overlay, { code: 2, stderr: /environments\.b\.engine\.threads is 0/ })
  t.equal((await check(join(folder, 'overlay.yaml'), '--environment', 'a')).code, 0)
  for (const [args, code] of [
    [[join(folder, 'torn.yaml')], 'CONFIG_PARSE_FAILED'],
    [[join(folder, 'absent.yaml')], 'CONFIG_NOT_FOUND'],
    [[join(folder, 'good.yaml'), '--environment', 'c'], 'CONFIG_UNKNOWN_ENVIRONMENT'],
    [[''], 'VALIDATION_ERROR']
  ] as const) {
    const failed = await check(...args)
    t.match(failed, { code: 2, stdout: '', stderr: new RegExp(`code: ${code}`) })
  }
  const none = await check()
  t.match(none, { code: 0, stdout: 'no file: defaults and variables: sound\n' })
  const variable = await command(['config', 'check'], { env: { TIERED_MOE__ENGINE__THREADS: 'x' } })
  t.match(variable, { code: 2, stderr: /^error: env:TIERED_MOE__ENGINE__THREADS: engine\.threads is "x"/ })
  const print = await command(['config', 'print', join(folder, 'bad.yaml')])
  t.match(print, { code: 2, stdout: '', stderr: /CONFIG_INVALID/ })
})

t.test('run --config', { skip: notBuilt }, async (t) => {
  const folder = t.testdir({
    'c.yaml': [
      'engine: { threads: 1, isa: scalar }',
      'models:',
      '  - { id: one, context_length: 64 }',
      '  - { id: two, context_length: 32 }'
    ].join('\n')
  })
  const path = join(folder, 'c.yaml')
  const figures = async (args: string[], env: Record<string, string> = {}) => {
    const bench = ['bench', '--json', '--prefill', '4', '--decode', '2', '--repeat', '1', '--config', path, ...args]
    const { code, stdout, stderr } = await command(bench, { env })
    t.equal(code, 0, stderr)
    return JSON.parse(stdout) as Record<string, unknown>
  }
  t.match(await figures([]), { model: 'one', threads: 1, isa: 'scalar' })
  t.match(await figures(['two', '--threads', '2']), { model: 'two', threads: 2, isa: 'scalar' })
  const env = { TIERED_MOE__ENGINE__THREADS: '3' }
  t.match(await figures(['tiny-shakespeare'], env), { model: 'tiny-shakespeare', threads: 3, isa: 'scalar' })

  const run = (...args: string[]) =>
    command(['run', '--config', path, '--json', '-p', 'ROMEO:', '--ignore-eos', ...args])
  const tokens = async (...args: string[]) => {
    const ended = jsonLines((await run(...args)).stdout).at(-1) as { usage: { completionTokens: number } }
    return ended.usage.completionTokens
  }
  const most = await tokens('two')
  t.ok(most < 32, 'its context holds no more')
  t.equal(await tokens('two', '--context-length', '40'), most + 8, 'an option goes over it')
  t.match(await run('--isa', 'mmx'), { code: 2 })
  t.match(await command(['run', '--config', join(folder, 'absent'), '-p', 'x']), {
    code: 2,
    stderr: /CONFIG_NOT_FOUND/
  })
})

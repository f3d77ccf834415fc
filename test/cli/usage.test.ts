import { join } from 'node:path'
import t from 'tap'
import { command, notBuilt } from './command.js'

t.test('usage', { skip: notBuilt }, async (t) => {
  for (const args of [['--help'], [], ['run', '--help'], ['help', 'bench']]) {
    const { code, stdout, stderr } = await command(args)
    t.equal(code, 0, args.join(' '))
    t.match(stdout, /^Usage: tiered-moe/)
    t.equal(stderr, '')
  }
  const { stdout } = await command(['--version'])
  t.match(stdout, /^\d+\.\d+\.\d+\n$/)
})

t.test('usage errors end with code 2', { skip: notBuilt }, async (t) => {
  for (const args of [
    ['bogus'],
    ['run', '--bogus'],
    ['run', '--max-tokens', '0'],
    ['run', '--max-tokens', '1.5'],
    ['run', '--temperature', 'hot'],
    ['run', '--temperature', '-1'],
    ['run', '--top-p', 'NaN'],
    ['run', '--latency-budget', '0'],
    ['run', '--latency-budget', '20', '--tier-set', 'max'],
    ['run', '--threads', '0'],
    ['run', '--threads', ''],
    ['run', '--isa', 'mmx'],
    ['run', '--kv-type', 'q8_0'],
    ['run', 'one', 'two'],
    ['quantize', 'one'],
    ['quantize', 'one', 'two', '--type', 'q2_k'],
    ['bench', '--repeat', '0'],
    ['inspect', ''],
    ['convert', '', 'x'],
    ['convert', 'tiny-shakespeare', ''],
    ['quantize', 'tiny-shakespeare', ''],
    ['quantize', 'tiny-shakespeare', 'x'.repeat(5000)],
    ['run', '--prompt', 'x', '--record-trace', '']
  ]) {
    const { code, stdout, stderr } = await command(args)
    t.equal(code, 2, args.join(' '))
    t.equal(stdout, '')
    t.match(stderr, /^error: .+\n {2}code: VALIDATION_ERROR\n {2}what to do: .+\n$/)
  }
  const { code, stderr } = await command(['run', '--json', '--bogus'])
  t.equal(code, 2)
  t.match(JSON.parse(stderr), {
    code: 'VALIDATION_ERROR',
    category: 'configuration',
    details: { suggested_action: String }
  })
})

t.test('without the addon', { skip: notBuilt }, async (t) => {
  const env = { TIERED_MOE_ADDON: join(t.testdir(), 'absent.node') }
  const run = await command(['run', '--prompt', 'x'], { env })
  t.equal(run.code, 1)
  t.match(run.stderr, /code: ADDON_UNAVAILABLE/)
  const doctor = await command(['doctor'], { env })
  t.equal(doctor.code, 1)
  t.match(doctor.stdout, /addon +not loaded\n +tried +.*absent\.node: /)
  t.match(doctor.stdout, /missing\n- the native addon/)
  const json = await command(['doctor', '--json'], { env })
  t.match(JSON.parse(json.stdout), { addon: { loaded: false }, cpu: null, missing: [{ what: String, how: String }] })
})

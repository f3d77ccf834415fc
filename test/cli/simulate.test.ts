/** `tiered-moe simulate` on a recorded run of the embedded model. */
import { join } from 'node:path'
import t from 'tap'
import { createEngine, writeTrace } from 'tiered-moe'
import { command, notBuilt } from './command.js'

const skip = notBuilt
const path = join(t.testdir({}), 'run.trace')
let live = { uses: 0, hits: 0, late: 0 }

t.before(async () => {
  const engine = await createEngine({ threads: 2 })
  const contextLength = 128
  await engine.loadModel({ contextLength })
  const { base, arena, experts } = engine.listModels()[0]!.memory
  await engine.unloadModel('tiny-shakespeare')
  const memory = base + arena + 24 * experts.slot
  await engine.loadModel({ contextLength, memory, prefetch: 'off', recordTrace: true })
  await engine.generate({ model: 'tiny-shakespeare', prompt: 'ROMEO:', maxTokens: 50, ignoreEos: true })
  live = engine.modelStats('tiny-shakespeare').experts!
  await writeTrace(path, engine.expertTrace('tiny-shakespeare'))
  await engine.dispose()
})

t.test('a table for people', { skip }, async (t) => {
  const { code, stdout, stderr } = await command(['simulate', path])
  t.equal(code, 0, stderr)
  t.match(stdout, /50 steps of tiny-shakespeare, 4 layers of 16 experts/)
  t.match(stdout, /24 of 64 experts in memory \(37\.50 %\), \d+ uses/)
  for (const policy of ['adaptive', 'lru', 'lfu', 'arc', 'mix: ', 'optimum']) t.match(stdout, `\n${policy}`)
  t.match(stdout, `${((100 * (live.hits + live.late)) / live.uses).toFixed(2)} %`, "the live run's hit rate")
})

t.test('JSON, other sizes and no mixes', { skip }, async (t) => {
  const args = ['--slots', '10', '--residency', '0.5', '--residency', '1', '--no-mixes', '--json']
  const { code, stdout, stderr } = await command(['simulate', path, ...args])
  t.equal(code, 0, stderr)
  const result = JSON.parse(stdout)
  t.match(result, { layers: 4, experts: 16, steps: 50, recorded: { slots: 24, policy: 'adaptive' } })
  const comparisons = result.comparisons as { slots: number; mixes: unknown[]; policies: { misses: number }[] }[]
  t.same(
    comparisons.map(({ slots, mixes }) => [slots, mixes.length]),
    [
      [10, 0],
      [32, 0],
      [64, 0]
    ]
  )
})

t.test('a run records its trace', { skip }, async (t) => {
  const file = join(t.testdir({}), 'own.trace')
  const run = ['run', '--prompt', 'ROMEO:', '--max-tokens', '20', '--ignore-eos', '--record-trace', file]
  const { code, stderr } = await command([...run, '--memory', '32MiB'])
  t.equal(code, 0, stderr)
  t.match((await command(['simulate', file, '--no-mixes'])).stdout, /20 steps of tiny-shakespeare/)
  const refused = await command(run)
  t.equal(refused.code, 2)
  t.match(refused.stderr, /--record-trace without --memory/)
  t.equal(refused.stdout, '', 'told before anything is generated')
})

t.test('what cannot be replayed', { skip }, async (t) => {
  for (const [args, exit, text] of [
    [[join(path, 'none')], 1, 'FILE_READ_FAILED'],
    [['package.json'], 1, 'TRACE_INVALID'],
    [[path, '--slots', '0'], 2, 'VALIDATION_ERROR'],
    [[path, '--residency', '1.5'], 2, 'VALIDATION_ERROR'],
    [[], 2, 'VALIDATION_ERROR']
  ] as const) {
    const { code, stderr } = await command(['simulate', ...args])
    t.equal(code, exit, args.join(' '))
    t.match(stderr, text)
  }
})

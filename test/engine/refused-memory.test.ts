/** A system that refuses memory, for real: experts make room once, else the request gets a typed error, and the engine goes on. */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import t from 'tap'
import { writeMoeModel } from '../fixtures/moe-model.js'
import { root } from '../fixtures/package.js'

const limited = process.platform === 'linux' && spawnSync('prlimit', ['--version']).status === 0

t.test('RLIMIT_DATA', { skip: limited ? false : 'prlimit is not here (Linux, util-linux)' }, async (t) => {
  // Few weights, pages of 8 MiB (64 positions of f32 keys and values), and 50 MB of experts to give.
  const sizes = { layers: 4, heads: 16, kvHeads: 16, headDim: 256, experts: 32, feedForward: 512, contextLength: 512 }
  const model = writeMoeModel(join(t.testdir(), 'model.gguf'), { type: 'F32', ...sizes })
  const child = join(root, 'test', 'fixtures', 'refusal-child.mjs')
  // A small young generation: what the limit leaves must not go to the heap of V8.
  const args = ['--max-semi-space-size=1', child, model, '200MiB', root]
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, args, {
    encoding: 'utf8',
    timeout: 120_000
  })
  t.equal(status, 0, `${signal}: ${stderr.slice(-800)}`)
  const {
    refusedBoot,
    afterBoot,
    reservedLoads,
    refusedLoad,
    empty,
    left,
    expected,
    before,
    text,
    demoted,
    told,
    outcomes,
    after,
    beside,
    prefixes
  } = JSON.parse(stdout)

  t.equal(refusedBoot, 'RESOURCE_MEMORY_EXHAUSTED')
  t.same(afterBoot, empty, 'an engine that did not boot holds nothing')
  t.same(reservedLoads, ['loaded', 'loaded'], 'what was reserved is there, again and again')

  t.equal(refusedLoad, 'RESOURCE_MEMORY_EXHAUSTED')
  t.same(left, empty, 'a load that was refused holds nothing')

  t.equal(text, expected, 'experts made room, and the request ended as ever')
  t.ok(demoted.limitBytes < before && demoted.pressureEvents > 0, `${demoted.limitBytes} of ${before} bytes`)
  t.match(told[0], { reason: 'allocation', previous: before })

  const refused = outcomes.filter((outcome: string) => outcome === 'RESOURCE_MEMORY_EXHAUSTED')
  t.ok(refused.length > 0 && refused.length < 6, `${refused.length} of 6 requests were refused`)
  t.ok(outcomes[0] === expected || refused.includes(outcomes[0]), 'those that were not ended as ever')
  t.equal(after, expected, 'the engine goes on')

  t.equal(beside, expected, 'prefixes made room')
  t.match(prefixes, { kept: 2, evictions: 2, taken: 0 }, 'its own first')
  t.ok(prefixes.others >= 1 && prefixes.others <= 4, `${prefixes.others} pages of another model`)
})

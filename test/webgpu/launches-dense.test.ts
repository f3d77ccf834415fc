/** Launches of rmsNorm, rope, attention and sample: functions of shapes and limits alone. */
import t from 'tap'
import { type AttentionShape, attentionLaunches, scratchLimitOf } from '../../lib/backends/webgpu/launches/attention.js'
import { headsLaunch, writesCache } from '../../lib/backends/webgpu/launches/heads.js'
import type { DeviceFacts } from '../../lib/backends/webgpu/launches/launch.js'
import { bits } from '../../lib/backends/webgpu/launches/launch.js'
import { rmsNormLaunch } from '../../lib/backends/webgpu/launches/rms-norm.js'
import { ropeFrequencies, ropeLaunch, ropeTableLaunch } from '../../lib/backends/webgpu/launches/rope.js'
import { sampleLaunch } from '../../lib/backends/webgpu/launches/sample.js'
import { sampleRequests, uniformAt } from '../../lib/backends/webgpu/sampling.js'
import { uniformAt as uniformOracle } from '../kernels/oracle-dense.js'

const facts = {
  limits: { maxComputeWorkgroupsPerDimension: 1000, maxStorageBufferBindingSize: 2 ** 27 }
} as DeviceFacts
const covered = ([x, y, z]: readonly [number, number, number]) => x * y * z

const decode: AttentionShape = {
  rows: 1,
  heads: 16,
  kvHeads: 16,
  headDim: 128,
  valueDim: 128,
  scale: 0.25,
  kvType: 'f16',
  positions: 200,
  together: false
}
const queriesOf = (shape: AttentionShape) => attentionLaunches(shape, facts).parts[0]!.attend.defines.QUERIES

t.test('attention of one row', async (test) => {
  const { append, parts, scratchBytes } = attentionLaunches(decode, facts)
  test.equal(append.shader, 'kv_write')
  test.ok(covered(append.workgroups) * 64 >= 16 * (128 + 64), 'an invocation for every word')
  const narrow = attentionLaunches(decode, { ...facts, subgroupMax: 8 }).parts[0]!.attend
  test.same(narrow.defines, parts[0]!.attend.defines, 'one order of sums on every adapter')
  test.equal(scratchBytes, 0)
  test.equal(parts.length, 1)
  test.equal(parts[0]!.merge, undefined, 'few positions need no second pass')
  test.same(parts[0]!.attend.defines, {
    ...{ F16: true, QUADS: true, QUERIES: 1, DIM: 128 },
    ...{ TOGETHER: false, SINKS: false }
  })
  test.same(parts[0]!.attend.workgroups, [16, 1, 1])
  test.same([...parts[0]!.attend.params.subarray(0, 10)], [0, 1, 16, 16, 128, 128, 1, 1, 1, bits(0.25)])
})

t.test('queries that share what they read: heads of a group first, then rows of a sequence', async (test) => {
  for (const [kvHeads, alone, together] of [
    [16, 1, 4],
    [8, 2, 4],
    [4, 4, 4],
    [2, 4, 4]
  ] as const) {
    test.equal(queriesOf({ ...decode, kvHeads }), alone, `${kvHeads} KV heads, decode`)
    test.equal(queriesOf({ ...decode, kvHeads, rows: 7, together: true }), together, `${kvHeads} KV heads, prefill`)
  }
  for (const rows of [1, 3, 4, 5, 129]) {
    for (const kvHeads of [16, 8, 4, 2]) {
      const { parts } = attentionLaunches({ ...decode, rows, kvHeads, together: true }, facts)
      const { workgroups, defines } = parts[0]!.attend
      test.ok(covered(workgroups) * Number(defines.QUERIES) >= rows * 16, `${rows} rows, ${kvHeads}: every query`)
    }
  }
})

t.test('long sequences: chunks of 256, merged; rows in parts where the partial sums are many', async (test) => {
  const long = { ...decode, positions: 4096 }
  const one = attentionLaunches(long, facts)
  test.same(one.parts[0]!.attend.workgroups, [16, 1, 16])
  test.same(one.parts[0]!.merge?.workgroups, [32, 1, 1])
  test.equal(one.scratchBytes, 16 * 16 * 130 * 4)
  test.same(one.parts[0]!.attend.defines, attentionLaunches(decode, facts).parts[0]!.attend.defines, 'the same shader')

  const many = attentionLaunches({ ...long, rows: 500, together: true }, facts)
  test.ok(many.scratchBytes <= 16 * 2 ** 20)
  let next = 0
  for (const { attend, merge } of many.parts) {
    const [first, end] = attend.params
    test.equal(first, next, 'parts follow one another')
    test.ok(end! - first! <= many.scratchBytes / (16 * 16 * 130 * 4))
    test.same([...merge!.params.subarray(0, 2)], [first, end])
    next = end!
  }
  test.equal(next, 500, 'and have all rows')
})

t.test('attention with a limit of partial sums', async (test) => {
  const most = { ...decode, rows: 500, positions: 8192 }
  const scratchLimit = scratchLimitOf(most)
  for (const rows of [1, 3, 32, 500])
    for (const positions of [256, 512, 4096, 8192])
      for (const [kvHeads, together] of [
        [1, true],
        [decode.heads / 2, true],
        [decode.heads, true],
        [decode.heads, false]
      ] as const) {
        const { parts, scratchBytes } = attentionLaunches(
          { ...decode, rows, positions, kvHeads, together, scratchLimit },
          facts
        )
        const ends = parts.map(({ attend }) => [...attend.params.subarray(0, 2)])
        const name = `${rows} rows, ${positions} positions`
        test.ok(scratchBytes <= scratchLimit, name)
        test.same([ends[0]![0], ends.at(-1)![1]], [0, rows], name)
      }
  test.equal(scratchLimitOf({ ...most, positions: 256 }), 0, 'one chunk needs none')
})

t.test('rmsNorm, rope and sample', async (test) => {
  const whole = rmsNormLaunch({ rows: 3, width: 256, epsilon: 0.5 }, facts)
  test.same(whole, {
    shader: 'rms_norm',
    defines: { IN_PLACE: false, QUANTISE: false },
    workgroups: [3, 1, 1],
    params: Uint32Array.of(3, 256, 1, bits(0.5), 256, 0, 0, 0)
  })
  const heads = rmsNormLaunch({ rows: 300, width: 256, n: 32, epsilon: 0.5, inPlace: true }, facts)
  test.same([...heads.params], [2400, 32, 8, bits(0.5), 256, 0, 0, 0])
  test.ok(covered(heads.workgroups) >= 2400 && heads.workgroups[0] <= 1000, 'folded')

  const place = { k: 64, v: 96, stride: 128 }
  const head = { rows: 3, heads: 4, kvHeads: 2, headDim: 16, valueDim: 16, place, rotaryDim: 8, pairs: 'neox' as const }
  const apart = headsLaunch({ ...head, norm: { of: 'head', epsilon: 0.5 }, cache: 'f16' }, facts)
  test.same(apart.defines, { NORM: true, CACHE: true, F16: true })
  test.same(apart.workgroups, [3 * (4 + 2 + 2), 1, 1], 'queries, keys, values')
  test.same([...apart.params.subarray(0, 14)], [3, 128, 64, 96, 4, 16, 2, 16, 16, 4, 0, bits(0.5), 2, 16])
  const whole3 = headsLaunch({ ...head, norm: { of: 'row', epsilon: 0.5 } }, facts)
  test.same([whole3.defines, whole3.workgroups], [{ NORM: true, CACHE: false, F16: false }, [6, 1, 1]])
  test.same([...whole3.params.subarray(4, 8)], [1, 64, 1, 32])
  test.notOk(writesCache('f16', 15), 'a value shares its word with the next position')
  test.ok(writesCache('f32', 15))

  const rotation = ropeLaunch({ rows: 70, heads: 16, headDim: 128, rotaryDim: 64, pairs: 'interleaved' }, facts)
  test.same([...rotation.params.subarray(0, 5)], [70 * 16 * 32, 16, 128, 32, 1])
  test.ok(covered(rotation.workgroups) * 64 >= 70 * 16 * 32)
  test.ok(covered(ropeTableLaunch({ rows: 70, rotaryDim: 64 }, facts).workgroups) * 64 >= 70 * 32)
  const turns = ropeFrequencies(10_000, 64)
  for (const i of [0, 1, 31]) {
    const turn = turns[2 * i + 1]! * 2 ** -32 + turns[2 * i]! * 2 ** -64
    test.ok(Math.abs(turn * 2 * Math.PI - 10_000 ** (-i / 32)) < 1e-15, `frequency ${i}`)
  }

  test.same(sampleLaunch({ rows: 3, vocab: 500 }).workgroups, [3, 1, 1])
})

t.test('what the sampler is asked for', async (test) => {
  for (const seed of [0, 1, 2 ** 53 - 1])
    for (const position of [0, 77, 2 ** 32]) test.equal(uniformAt(seed, position), uniformOracle(seed, position))

  const greedy = {
    temperature: 0,
    topK: 40,
    topP: 1,
    minP: 0,
    repetitionPenalty: 1,
    seed: 1,
    topLogprobs: -1,
    position: 5
  }
  const recent = Int32Array.of(3, 3, -1, 9, 10)
  const penalised = { ...greedy, temperature: 0.5, repetitionPenalty: 2, recent, banned: Int32Array.of(1, 1) }
  const { requests, lists } = sampleRequests([greedy, undefined, penalised], 10)
  test.same([...requests.subarray(0, 10)], [1, 0, 0, bits(1), 0, bits(1), 0, 0, 0, 0], 'greedy')
  test.same([...requests.subarray(10, 20)], Array(10).fill(0), 'nothing is drawn')
  test.same([...requests.subarray(26)], [0, 2, 1, 0], 'tokens of the vocabulary, each once')
  test.same([...lists], [3, 0, 9, 0, 1, 0])
})

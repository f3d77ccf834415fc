/** Launches of matmul, embed and the experts: functions of shapes and limits alone. */
import t from 'tap'
import { embedLaunches } from '../../lib/backends/webgpu/launches/embed.js'
import {
  downLaunch,
  type ExpertShape,
  expertTilesLaunch,
  gateUpLaunches,
  mostTiles,
  type SlabShape
} from '../../lib/backends/webgpu/launches/expert-matmul.js'
import type { DeviceFacts } from '../../lib/backends/webgpu/launches/launch.js'
import { matmulLaunches } from '../../lib/backends/webgpu/launches/matmul.js'

const facts = {
  subgroups: false,
  dot4: true,
  f16: false,
  limits: { maxComputeWorkgroupsPerDimension: 65535, maxStorageBufferBindingSize: 2 ** 27 }
} as DeviceFacts
const narrow = { ...facts, subgroups: true, subgroupMin: 8, subgroupMax: 8 }

t.test('a matrix that is larger than a binding', async (test) => {
  const parts = matmulLaunches({ type: 'F16', rows: 50304, columns: 2048, tokens: 3 }, facts)
  test.equal(parts.length, 2)
  test.same(
    parts.map(({ weights }) => weights.offset % 256),
    [0, 0],
    'each begins where a binding may'
  )
  test.ok(parts.every(({ weights }) => weights.size <= 2 ** 27))
  test.equal(
    parts.reduce((sum, { weights }) => sum + weights.size, 0),
    50304 * 2048 * 2
  )
  const [rows, columns, tokens, base, stride, first] = parts[1]!.launch.params
  test.same([columns, tokens, base, stride], [2048, 3, 0, 50304])
  test.equal(rows! + first!, 50304, 'the last part ends with the last row')
  const tables = embedLaunches({ type: 'F16', rows: 50304, columns: 2048, count: 3 }, facts)
  test.same(
    tables.map(({ first, rows: own }) => first + own),
    [32768, 50304]
  )
})

t.test('tiles by the number of tokens, groups by the width of a subgroup', async (test) => {
  const launchOf = (tokens: number, own: DeviceFacts) =>
    matmulLaunches({ type: 'Q4_0', rows: 100, columns: 64, tokens }, own)[0]!.launch
  test.same(
    [1, 2, 4, 5, 100].map((tokens) => launchOf(tokens, facts).defines.TOKENS),
    [1, 4, 4, 8, 8]
  )
  test.same(launchOf(17, facts).workgroups, [1, 3, 1])
  test.same(launchOf(17, narrow).workgroups, [4, 3, 1])
  test.equal(launchOf(1, facts).defines.BROADCAST, false)
  test.equal(launchOf(1, narrow).defines.BROADCAST, true)
})

t.test('experts', async (test) => {
  const types = { gate: 'Q4_0', up: 'Q4_0', down: 'Q6_K' } as const
  const shape: ExpertShape = { tokens: 16, k: 8, experts: 64, width: 2048, hidden: 1024, types }
  const matrix = 1024 * 2048 * (18 / 32)
  const slab: SlabShape = {
    first: 32,
    slots: 32,
    gate: { stride: 4 * matrix, offset: 0 },
    up: { stride: 4 * matrix, offset: matrix },
    down: { stride: 4 * matrix, offset: 2 * matrix }
  }
  // The worst routing: every expert used, all further rows on one.
  test.equal(mostTiles(shape), 64 + (128 - 64) / 4)
  test.equal(mostTiles({ ...shape, tokens: 1 }), 8, 'one row each')
  test.same([...expertTilesLaunch(shape).params], [64, 128, 4, 80])
  const fused = gateUpLaunches(shape, slab, facts)
  test.equal(fused.length, 1)
  test.same([...fused[0]!.params.subarray(0, 9)], [1024, 2048, 8, 32, 32, matrix / 4, 0, matrix / 4, matrix / 16])
  test.same(fused[0]!.workgroups, [8, 80, 1])
  test.equal(gateUpLaunches({ ...shape, types: { ...types, up: 'Q8_0' } }, slab, facts).length, 2)
  const down = downLaunch(shape, slab, facts)
  test.same([...down.params.subarray(0, 7)], [2048, 1024, 8, 32, 32, matrix / 4, matrix / 8])
  test.match(down.defines, { TYPE: 'Q6_K', MATRICES: 1, GATHER: false })
})

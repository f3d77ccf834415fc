/** Launches of matmul, embed and the experts: functions of shapes and limits alone. */
import t from 'tap'
import { embedLaunches } from '../../lib/backends/webgpu/launches/embed.js'
import {
  downLaunch,
  type ExpertShape,
  expertTilesLaunch,
  gateUpLaunches,
  mostTiles,
  type SlabShape,
  tilesBytes
} from '../../lib/backends/webgpu/launches/expert-matmul.js'
import type { DeviceFacts } from '../../lib/backends/webgpu/launches/launch.js'
import { matmulLaunches } from '../../lib/backends/webgpu/launches/matmul.js'

const facts = {
  subgroups: false,
  dot4: true,
  f16: false,
  limits: {
    maxComputeWorkgroupsPerDimension: 65535,
    maxStorageBufferBindingSize: 2 ** 27,
    maxComputeWorkgroupStorageSize: 2 ** 15
  }
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
  test.same(launchOf(1, facts).workgroups, [1, 1, 1])
  test.same(launchOf(1, narrow).workgroups, [4, 1, 1])
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
  test.equal(mostTiles(shape, facts), 64 + (128 - 64) / 16)
  test.equal(mostTiles({ ...shape, tokens: 1 }, facts), 8, 'one row each')
  test.same([...expertTilesLaunch(shape, facts).params], [64, 128, 16, 68])
  const fused = gateUpLaunches(shape, slab, facts)
  test.equal(fused.length, 1)
  test.same([...fused[0]!.params.subarray(0, 9)], [1024, 2048, 8, 32, 32, matrix / 4, 0, matrix / 4, matrix / 16])
  test.same(fused[0]!.workgroups, [4, 68, 1])
  test.equal(gateUpLaunches({ ...shape, types: { ...types, up: 'Q8_0' } }, slab, facts).length, 2)
  const down = downLaunch(shape, slab, facts)
  test.same([...down.params.subarray(0, 7)], [2048, 1024, 8, 32, 32, matrix / 4, matrix / 8])
  test.match(down.defines, { TYPE: 'Q6_K', MATRICES: 1, GATHER: false })
})

t.test('tiles of experts by the rows that they have', async (test) => {
  const quantised = { gate: 'Q4_0', up: 'Q4_0', down: 'Q6_K' } as const
  const place = { stride: 2 ** 20, offset: 0 }
  const slab = { first: 0, slots: 64, gate: place, up: place, down: place }
  const shapeOf = (tokens: number, types: ExpertShape['types'] = quantised): ExpertShape => ({
    tokens,
    k: 8,
    experts: 64,
    width: 2048,
    hidden: 1024,
    types
  })
  const sizes = (shape: ExpertShape, own = facts) => {
    const { TOKENS, PARTS, STAGE, GROUP } = downLaunch(shape, slab, own).defines
    return [TOKENS, PARTS, STAGE, GROUP]
  }
  test.same(sizes(shapeOf(8)), [1, 1, 64, 32])
  test.same(sizes(shapeOf(16)), [4, 4, 2, 64], 'up to twice the mean in one tile')
  test.same(sizes(shapeOf(128)), [8, 4, 2, 64])
  test.same(sizes(shapeOf(16), narrow), [4, 1, 0, 8], 'on a CPU no parts')
  test.same(sizes(shapeOf(128), narrow), [8, 1, 0, 8])
  test.same(sizes(shapeOf(128, { ...quantised, down: 'Q4_0' })), [8, 4, 4, 64], 'smaller blocks, more of them')
  test.same([...expertTilesLaunch(shapeOf(128), facts).params], [64, 1024, 32, 64 + 30])
  test.same(downLaunch(shapeOf(128), slab, facts).workgroups, [8, 94, 1])
  test.same(sizes(shapeOf(128, { ...quantised, down: 'F16' })), [8, 1, 8, 32], 'one list of tiles for all three')
  test.same([...expertTilesLaunch(shapeOf(128), narrow).params], [64, 1024, 8, 64 + 120])
  test.same(downLaunch(shapeOf(128), slab, narrow).workgroups, [64, 184, 1])
  const small = { ...facts, limits: { ...facts.limits, maxComputeWorkgroupStorageSize: 2 ** 14 } }
  const launch = downLaunch(shapeOf(128), slab, small)
  test.match(launch.defines, { GROUP: 32, STAGE: 2 }, 'where workgroups have little memory')
  test.same(launch.workgroups, [16, 94, 1])
  // Scratch memory is made for the most tokens: fewer tokens have smaller tiles.
  for (let tokens = 1; tokens < 200; tokens++) {
    const shape = shapeOf(tokens)
    for (const own of [facts, narrow]) test.ok(tilesBytes(shape) >= 16 * mostTiles(shape, own))
    test.ok(tilesBytes(shape) <= tilesBytes(shapeOf(tokens + 1)))
  }
})

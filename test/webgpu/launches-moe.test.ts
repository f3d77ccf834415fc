/** Launches of routing and movement: functions of shapes and limits alone. */
import t from 'tap'
import { allToAllLaunch, rankRowsLaunch } from '../../lib/backends/webgpu/launches/all-to-all.js'
import { combineLaunch, dispatchLaunch } from '../../lib/backends/webgpu/launches/dispatch.js'
import type { DeviceFacts } from '../../lib/backends/webgpu/launches/launch.js'
import { maskWords, type RouteShape, routeLaunches, routerRows } from '../../lib/backends/webgpu/launches/route.js'
import { maskBits } from '../../lib/backends/webgpu/masks.js'

const facts = { limits: { maxComputeWorkgroupsPerDimension: 100 } } as DeviceFacts
const covered = ([x, y, z]: readonly [number, number, number]) => x * y * z

const flat: RouteShape = {
  tokens: 7,
  width: 64,
  experts: 10,
  k: 3,
  form: 'softmax_topk',
  normalise: true,
  scale: 2.5,
  selectionBias: false,
  layer: 4_000_000_000,
  seed: Uint32Array.of(1, 2, 3, 0xffffffff),
  exponent: -3,
  mask: { stride: 16, offset: 5 }
}
const hser = { tiers: 2, groups: 5, kTier: 1, kGroup: 2, kExpert: 3, tierExponent: 4, groupExponent: -5 }

t.test('route', async (test) => {
  const { scores, choose } = routeLaunches(flat, facts)
  test.same(scores, {
    shader: 'route_scores',
    defines: {},
    workgroups: [21, 1, 1],
    params: Uint32Array.of(7, 10, 64, 3)
  })
  test.equal(choose.shader, 'route')
  const none = { SIGMOID: false, BY_SIGMOID: false, BIAS: false, SELECTION: false, GROUPS: false, TOP2: false }
  test.same(choose.defines, { HSER: false, SCORES: false, PICKED: 256, ...none })
  const words = [1, 2, 3, 0xffffffff, 4_000_000_000, 7, 10, 10, 3, 0, 1, -49, 16, 5, 0x40200000, 0, 0, 0]
  test.same(
    [...choose.params.subarray(0, 18)],
    words.map((word) => word >>> 0)
  )
  test.equal(choose.params.length, 28, 'the flat form has the uniform block of the hierarchical one')

  const after = routeLaunches({ ...flat, form: 'topk_softmax' }, facts).choose
  test.same(after.defines, choose.defines, 'both flat forms are one pipeline')
  test.equal(after.params[9], 1)
  test.same(routeLaunches({ ...flat, experts: 600, k: 300 }, facts).choose.defines, { ...choose.defines, PICKED: 512 })

  const upper = routeLaunches({ ...flat, form: 'hser', k: 6, hser }, facts)
  test.equal(upper.scores.params[1], 17, 'the rows of all routers')
  test.same(upper.choose.defines, { HSER: true, SCORES: false, PICKED: 1024, ...none })
  test.same(
    [...upper.choose.params.subarray(18, 25)],
    [5, 2, 1, 2, 3, -51, -42].map((word) => word >>> 0)
  )
  test.equal(routerRows({ experts: 10, hser }), 17)

  const v3 = { form: 'sigmoid', selectionBias: true, groups: { count: 5, used: 2, score: 'top2' } } as const
  const limited = routeLaunches({ ...flat, ...v3, biasExponent: -3 }, facts).choose
  const all = { SIGMOID: true, BY_SIGMOID: true, BIAS: true, SELECTION: true, GROUPS: true, TOP2: true }
  test.same(limited.defines, { ...choose.defines, ...all })
  test.same([...limited.params.subarray(15, 18)], [-3 >>> 0, 5, 2])
  const plain = routeLaunches({ ...flat, form: 'sigmoid' }, facts).choose
  test.same(plain.defines, { ...choose.defines, SIGMOID: true }, 'scores order as their sigmoids do')
})

t.test('more workgroups than a dimension has are folded, and cover all', async (test) => {
  for (const tokens of [0, 1, 33, 34, 100, 101, 9_999]) {
    const { scores, choose } = routeLaunches({ ...flat, tokens }, facts)
    const combine = combineLaunch({ tokens, k: 2, experts: 8, width: 257, add: false }, facts)
    const packed = allToAllLaunch({ rows: tokens, k: 2, width: 0, direction: 'pack' }, facts)
    const wanted = { scores: 3 * tokens, choose: tokens, combine: 2 * tokens, packed: tokens }
    for (const [name, launch] of Object.entries({ scores, choose, combine, packed })) {
      const count = wanted[name as keyof typeof wanted]
      test.ok(
        covered(launch.workgroups) >= count && Math.max(...launch.workgroups) <= Math.max(100, count / 100 + 1),
        name
      )
      if (count === 0) test.equal(covered(launch.workgroups), 0, `${name}: nothing to do`)
    }
  }
})

t.test('dispatch, combine and all-to-all', async (test) => {
  test.same(dispatchLaunch({ tokens: 5, k: 2, experts: 1024 }).defines, { EXPERTS: 1024, TILES: false })
  test.same(dispatchLaunch({ tokens: 5, k: 2, experts: 1025 }), {
    shader: 'dispatch',
    defines: { EXPERTS: 2048, TILES: false },
    workgroups: [1, 1, 1],
    params: Uint32Array.of(10, 2, 1025, 1, 0, 0, 0, 0)
  })
  const tiled = dispatchLaunch({ tokens: 5, k: 2, experts: 8 }, { size: 4, most: 9 })
  test.same([tiled.defines.TILES, ...tiled.params.subarray(0, 5)], [true, 10, 2, 8, 4, 9])
  const combine = combineLaunch({ tokens: 5, k: 2, experts: 8, width: 300, add: true }, facts)
  test.same([...combine.params], [5, 2, 300, 2, 8, 1, 0, 0])
  test.same(allToAllLaunch({ rows: 6, k: 2, width: 9, direction: 'unpack' }, facts).defines, { PACK: false })
  test.same([...rankRowsLaunch({ rows: 6, experts: 9, ranks: 4 }).params], [6, 9, 4, 0])
})

t.test('bits of masks', async (test) => {
  test.equal(maskWords(64), 2)
  test.equal(maskWords(65), 3)
  const enabled = Uint8Array.from({ length: 3 * 40 }, (_, at) => (at < 40 || at % 40 === 33 ? 255 : 0))
  test.same([...maskBits(enabled, 40)], [0xffffffff, 255, 0, 2, 0, 2])
})

/** The hierarchical form of route: tiers, then groups, then experts; the same bits on every instruction set, and the oracle's choices. */
import t, { type Test } from 'tap'
import type { RouteRequest } from 'tiered-moe/kernels'
import { Forms } from './forms.js'
import type { Memory } from './memory.js'
import { hserMisfitShape, hserMisfits } from './misfits.js'
import { routeTokenHser } from './oracle-hser.js'
import { tieHash } from './oracle-moe.js'
import { type HserShape, hserCases, hserRequest } from './route-cases.js'
import { checkRoutes } from './routes.js'

const forms = new Forms(t)

const makeRequest = (shape: HserShape, width: number, label: string, more: Partial<RouteRequest> = {}) =>
  hserRequest(forms.backend, shape, width, label, more)

const place = (memory: Memory, request: RouteRequest): RouteRequest => {
  const tokens = request.positions.length
  const hser = request.hser!
  const rows = request.experts + hser.groupExperts.length + hser.tierGroups.length - 2
  return {
    ...request,
    states: memory.input('states', request.states),
    router: memory.input('router', request.router),
    positions: memory.input('positions', request.positions),
    hser: {
      ...hser,
      tierRouter: memory.input('tierRouter', hser.tierRouter),
      groupRouter: memory.input('groupRouter', hser.groupRouter)
    },
    ids: memory.ints('ids', tokens * request.k),
    weights: memory.floats('weights', tokens * request.k),
    scores: memory.longs('scores', tokens * rows)
  }
}

const check = (test: Test, label: string, request: RouteRequest) =>
  checkRoutes(test, forms, label, request, { place, oracle: routeTokenHser })

t.test('grid of shapes, widths and flavours', async (test) => {
  for (const { label, request } of hserCases(forms.backend)) await check(test, label, request)
})

t.test('one tier of one group is the flat form', async (test) => {
  const shape: HserShape = { tiers: [[12]], k: [1, 1, 4] }
  for (const normalise of [false, true]) {
    const request = makeRequest(shape, 24, 'flat', { normalise })
    const { hser: _, form: __, ...flat } = request
    const plain = forms.naive('route', 'flat', { request: () => flat }).result
    const result = await check(test, `one group, normalise ${normalise}`, request)
    test.same(result.ids, plain.ids)
    test.same(result.weights, plain.weights, 'p_tier and p_group are exactly 1')
  }
})

t.test('ties are broken at every level by the hash of the row in the stack of all routers', async (test) => {
  const shape: HserShape = {
    tiers: [
      [3, 3, 3],
      [3, 3, 3],
      [3, 3, 3],
      [3, 3, 3]
    ],
    k: [2, 2, 2]
  }
  const states = new Float32Array(60 * 8).fill(-0)
  const positions = Uint32Array.from({ length: 60 }, (_, i) => i * 31)
  const request = makeRequest(shape, 8, 'ties', { states, positions })
  const { ids } = await check(test, 'all scores equal', request)
  for (let token = 0; token < 60; token++) {
    const hash = (row: number) => tieHash([9, 8, 7, 6], 3, positions[token]!, row)
    const tiers = [0, 1, 2, 3].sort((a, b) => hash(36 + 12 + a) - hash(36 + 12 + b))
    const groups = [0, 1, 2].map((g) => 3 * tiers[0]! + g).sort((a, b) => hash(36 + a) - hash(36 + b))
    const experts = [0, 1, 2].map((e) => 3 * groups[0]! + e).sort((a, b) => hash(a) - hash(b))
    test.same([...ids.slice(token * 8, token * 8 + 2)], experts.slice(0, 2), `token ${token}`)
  }
  test.equal(new Set(ids).size, 36, 'ties are spread over all experts')
})

t.test('a mask of tiers, and of single experts', async (test) => {
  const shape: HserShape = {
    tiers: [
      [4, 4],
      [4, 4],
      [4, 4]
    ],
    k: [1, 1, 2]
  }
  for (const tier of [0, 1, 2]) {
    const enabled = Uint8Array.from({ length: 24 }, (_, e) => (Math.floor(e / 8) === tier ? 1 : 0))
    const { ids, weights } = await check(test, `tier ${tier} alone`, makeRequest(shape, 20, 'mask', { enabled }))
    test.ok(
      ids.every((id) => Math.floor(id / 8) === tier),
      'only the enabled tier is chosen'
    )
    const { hser: _, ...none } = makeRequest(shape, 20, 'mask')
    test.notSame(weights, forms.naive('route', 'all', { request: () => ({ ...none, hser: _! }) }).result.weights)
  }
  const two = Uint8Array.from({ length: 24 }, (_, e) => (e < 16 ? 1 : 0))
  await check(test, 'two tiers', makeRequest(shape, 20, 'mask', { enabled: two }))
  const some = Uint8Array.from({ length: 24 }, (_, e) => (e % 4 === 1 || (e >= 4 && e < 8) ? 0 : 255))
  await check(
    test,
    'a whole group and one expert of each other are masked',
    makeRequest(shape, 20, 'mask', { enabled: some })
  )
  const all = makeRequest(shape, 20, 'mask', { enabled: new Uint8Array(24).fill(1) })
  const { enabled: _, ...none } = all
  const [masked, plain] = [all, none].map((own) => forms.naive('route', 'all', { request: () => own }).result)
  test.same(masked, plain, 'a mask that enables all changes nothing')
})

t.test('too few enabled at a level', async () => {
  const shape: HserShape = {
    tiers: [
      [4, 4, 4],
      [4, 4],
      [4, 4]
    ],
    k: [2, 2, 3]
  }
  const masks = {
    tier: (e: number) => e < 12,
    group: (e: number) => e < 20 || e >= 24,
    expert: (e: number) => e !== 0 && e !== 1
  }
  for (const [level, on] of Object.entries(masks)) {
    const enabled = Uint8Array.from({ length: 28 }, (_, e) => (on(e) ? 1 : 0))
    const request = makeRequest(shape, 16, level, { enabled })
    const own = { request: (memory: Memory) => place(memory, request) }
    await forms.sameError('route', `level of ${level}`, own, 'VALIDATION_ERROR', { level })
  }
})

t.test('topologies, bounds and routers that do not fit', async () => {
  const base = makeRequest(hserMisfitShape, 16, 'bad')
  for (const [label, more] of Object.entries(hserMisfits(base))) {
    const own = { request: () => ({ ...base, ...more }) }
    await forms.sameError('route', label, own, 'VALIDATION_ERROR')
  }
  const { hser: _, ...missing } = base
  await forms.sameError('route', 'no hser', { request: () => missing }, 'VALIDATION_ERROR')
})

t.test('a value that is not finite', async () => {
  const request = makeRequest({ tiers: [[4], [4]], k: [1, 1, 2] }, 10, 'nan')
  request.states[25] = Number.NaN
  await forms.sameError('route', 'nan', { request: (memory) => place(memory, request) }, 'RUNTIME_NAN_DETECTED', {
    token: 2
  })
})

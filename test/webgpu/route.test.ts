/** Routes on the GPU: ids and exact scores equal to the CPU's, weights within tolerance of the oracle. */
import t from 'tap'
import { openBackend, type RouteRequest } from 'tiered-moe/kernels'
import { firstFar } from '../kernels/close.js'
import { hserMisfitShape, hserMisfits } from '../kernels/misfits.js'
import { routeTokenHser } from '../kernels/oracle-hser.js'
import { routeToken } from '../kernels/oracle-moe.js'
import { flatCases, hserCases, hserRequest, hserShapes } from '../kernels/route-cases.js'
import { tolerances } from '../kernels/tolerance.js'
import { floats, stream } from '../kernels/values.js'
import { openGpu } from './adapter.js'
import { rowsOf, sameRoutes } from './routes.js'

const gpu = await openGpu(t)

if (gpu) {
  const cpu = openBackend('cpu')
  t.teardown(() => cpu.dispose())

  const same = sameRoutes(cpu, gpu)

  t.test('the grid of the CPU, flat', async (test) => {
    for (const { label, request } of flatCases(gpu)) {
      const { weights } = await same(test, label, request)
      for (let token = 0; token < request.positions.length; token++) {
        const oracle = routeToken(request, token).weights
        const wanted = oracle.map((value) => ({ value, scale: 1, terms: request.experts }))
        const own = weights.subarray(token * request.k, (token + 1) * request.k)
        test.equal(firstFar(own, wanted, tolerances.routeWeights), undefined, `${label}: weights of token ${token}`)
      }
    }
  })

  t.test('the grid of the CPU, hierarchical', async (test) => {
    for (const { label, request } of hserCases(gpu)) {
      const { weights } = await same(test, label, request)
      for (let token = 0; token < request.positions.length; token++) {
        const oracle = routeTokenHser(request, token).weights
        const wanted = oracle.map((value) => ({ value, scale: 1, terms: request.experts }))
        const own = weights.subarray(token * request.k, (token + 1) * request.k)
        test.equal(firstFar(own, wanted, tolerances.routeWeights), undefined, `${label}: weights of token ${token}`)
      }
    }
  })

  t.test('ties, masks and many experts', async (test) => {
    const next = stream('ties')
    for (const [experts, k] of [
      [12, 5],
      [64, 8],
      [70, 33],
      [200, 9],
      [1000, 8],
      [300, 290]
    ] as const) {
      const [width, tokens] = [16, 5]
      const row = floats(width, next)
      // experts two by two with the same row, the last quarter all with one
      const weights = Float32Array.from({ length: experts * width }, (_, i) => {
        const expert = Math.floor(i / width)
        return row[i % width]! * (expert >= 0.75 * experts ? 1 : 1 + (expert >> 1))
      })
      const request: RouteRequest = {
        states: floats(tokens * width, next),
        ...gpu.packRouter(weights),
        experts,
        k,
        positions: Uint32Array.from({ length: tokens }, (_, i) => i * 977),
        layer: 3,
        seed: Uint32Array.of(1, 2, 3, 4_000_000_000)
      }
      await same(test, `${experts} experts, k ${k}`, request)
      const enabled = Uint8Array.from({ length: experts }, (_, e) => (e % 7 === 3 && experts > k + e ? 0 : 255))
      for (const form of ['softmax_topk', 'topk_softmax'] as const)
        await same(test, `${experts} experts, k ${k}, masked, ${form}`, { ...request, enabled, form, normalise: true })
      await same(test, `${experts} experts, k ${k}, zeros`, { ...request, states: new Float32Array(tokens * width) })
    }
  })

  t.test('masks and ties of the hierarchical form', async (test) => {
    const shape = hserShapes[5]!
    const request = hserRequest(gpu, shape, 24, 'masked')
    const masks: Record<string, (e: number) => boolean> = {
      'two tiers and a half': (e) => e < 33 + 48 + 8 && e % 16 !== 5,
      'single experts': (e) => e % 3 !== 1,
      all: () => true
    }
    for (const [name, on] of Object.entries(masks)) {
      const enabled = Uint8Array.from({ length: request.experts }, (_, e) => (on(e) ? 1 : 0))
      const less = { ...request, enabled, k: 8, hser: { ...request.hser!, kTier: 2, kGroup: 1, kExpert: 4 } }
      await same(test, name, less)
      await same(test, `${name}, ties`, { ...less, states: new Float32Array(request.states.length), normalise: true })
    }
  })

  t.test('each token its own mask', async (test) => {
    const flat = {
      experts: 40,
      k: 3,
      form: 'topk_softmax' as const,
      ...gpu.packRouter(floats(40 * 24, stream('flat')))
    }
    const upper = hserRequest(gpu, hserShapes[5]!, 24, 'masks')
    for (const shape of [flat, { ...upper, k: 8, hser: { ...upper.hser!, kTier: 2, kGroup: 1, kExpert: 4 } }]) {
      const next = stream(`masks ${shape.form}`)
      const { experts } = shape
      const masks = Array.from({ length: 3 }, (_, mask) =>
        Array.from({ length: experts }, (_, e) => (e % 4 === mask ? 0 : 1))
      )
      const request: RouteRequest = {
        ...shape,
        states: floats(9 * 24, next),
        positions: Uint32Array.from({ length: 9 }, (_, i) => i),
        enabled: Uint8Array.from(masks.flat()),
        maskOf: Uint32Array.of(2, 0, 1, 0xffffffff, 0, 0, 2, 1, 0xffffffff)
      }
      await same(test, `${shape.form}`, request)
      await same(test, `${shape.form}, ties`, { ...request, states: new Float32Array(9 * 24) })
      const refused = (more: object) => test.rejects(gpu.route({ ...request, ...more }), { code: 'VALIDATION_ERROR' })
      await refused({ maskOf: new Uint32Array(9).fill(3) })
      await refused({ maskOf: new Uint32Array(8) })
      await refused({ enabled: new Uint8Array(experts) })
    }
  })

  t.test('values at the ends of the float range', async (test) => {
    for (const size of [3e38, 2 ** -140, 2 ** 60]) {
      const next = stream(`size ${size}`)
      const states = floats(2 * 24, next).map((x) => x * (Math.abs(x) < 1 ? size : size / 4))
      const router = gpu.packRouter(floats(8 * 24, next, 'normal', 2 ** -20))
      await same(test, `${size}`, { states, ...router, experts: 8, k: 2, positions: Uint32Array.of(0, 1) })
    }
    const largest = { router: new Int32Array(8).fill(-(2 ** 23)), routerExponent: 0, experts: 2, k: 1 }
    await same(test, 'the largest integers', {
      ...largest,
      states: new Float32Array(4).fill(1),
      positions: new Uint32Array(1)
    })
    // 300 lanes' worth of full 24-bit products of one sign
    const [width, experts] = [20_000, 3]
    await same(test, 'the largest sums', {
      states: new Float32Array(width).fill(-(2 ** -20)),
      router: new Int32Array(experts * width).fill(2 ** 23),
      routerExponent: -10,
      experts,
      k: 2,
      positions: new Uint32Array(1)
    })
  })

  t.test('arrays on the device', async (test) => {
    const request = { ...hserRequest(gpu, hserShapes[3]!, 31, 'device'), enabled: new Uint8Array(26).fill(1) }
    const expected = cpu.sync.route({ ...request, scores: new BigInt64Array(4 * rowsOf(request)) })
    const hser = request.hser!
    const ids = await gpu.allocate('i32', expected.ids.length)
    const scores = await gpu.allocate('i64', 4 * rowsOf(request))
    const got = await gpu.route({
      ...request,
      states: await gpu.upload(request.states),
      router: await gpu.upload(request.router),
      positions: await gpu.upload(request.positions),
      enabled: await gpu.upload(request.enabled),
      seed: await gpu.upload(request.seed!),
      hser: {
        ...hser,
        tierGroups: await gpu.upload(hser.tierGroups),
        groupExperts: await gpu.upload(hser.groupExperts),
        tierRouter: await gpu.upload(hser.tierRouter),
        groupRouter: await gpu.upload(hser.groupRouter)
      },
      ids,
      scores
    })
    test.equal(got.ids, ids)
    test.same(await ids.read(), expected.ids)
    test.same(await scores.read(), expected.scores)
  })

  t.test('refused', async (test) => {
    const next = stream('refused')
    const request: RouteRequest = {
      states: floats(3 * 20, next),
      ...gpu.packRouter(floats(4 * 20, next)),
      experts: 4,
      k: 3,
      positions: new Uint32Array(3)
    }
    const refused = (name: string, more: object, code = 'VALIDATION_ERROR', details: object = {}) =>
      test.rejects(gpu.route({ ...request, ...more }), { code, details }, name)
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      const states = request.states.slice()
      states[20 + 19] = bad
      await refused(`${bad}`, { states }, 'RUNTIME_NAN_DETECTED', { token: 1 })
    }
    for (const number of [2 ** 23 + 1, -(2 ** 23) - 1, 2 ** 31 - 1, -(2 ** 31)]) {
      const router = request.router.slice()
      router[77] = number
      await refused(`a router with ${number}`, { router }, 'VALIDATION_ERROR', { argument: 'router' })
    }
    const huge = { states: new Float32Array(3 * 20).fill(3e38), routerExponent: 100 }
    await refused('logits beyond the float range', huge, 'RUNTIME_NAN_DETECTED', { token: 0 })
    await refused('2 of 4 enabled', { enabled: Uint8Array.of(0, 1, 0, 1) }, 'VALIDATION_ERROR', { k: 3, enabled: 2 })
    await refused('k = 5 of 4', { k: 5 })
    await refused('too few states', { states: request.states.subarray(1) }, 'VALIDATION_ERROR', { argument: 'states' })
    await refused('half an expert', { router: request.router.subarray(1) })
    await refused('an output over an input', { weights: request.states })

    const whole = hserRequest(gpu, hserMisfitShape, 16, 'bad')
    for (const [name, more] of Object.entries(hserMisfits(whole))) await refused(name, { ...whole, ...more })
    const { hser: _, ...missing } = whole
    await test.rejects(gpu.route(missing), { code: 'VALIDATION_ERROR' }, 'no hser')
    const levels = { tier: (e: number) => e < 8, group: (e: number) => e < 12, expert: (e: number) => e % 4 > 2 }
    for (const [level, on] of Object.entries(levels)) {
      const enabled = Uint8Array.from({ length: 16 }, (_, e) => (on(e) ? 1 : 0))
      await refused(`too few at the level of ${level}`, { ...whole, enabled }, 'VALIDATION_ERROR', { level })
    }
  })
}

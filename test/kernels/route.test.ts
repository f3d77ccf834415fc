import t, { type Test } from 'tap'
import type { RouteRequest } from 'tiered-moe/kernels'
import { Forms } from './forms.js'
import type { Memory } from './memory.js'
import { integers, routeToken } from './oracle-moe.js'
import { flatCases } from './route-cases.js'
import { checkRoutes, placeFlat as place } from './routes.js'
import { flavours, floats, stream } from './values.js'

const forms = new Forms(t)

const check = (test: Test, label: string, request: RouteRequest) =>
  checkRoutes(test, forms, label, request, { place, oracle: routeToken })

t.test('grid of shapes, flavours and forms of the softmax', async (test) => {
  for (const { label, request } of flatCases(forms.backend)) await check(test, label, request)
})

t.test('the integers of a router', async (test) => {
  for (const flavour of flavours) {
    const weights = floats(333, stream(`router ${flavour}`), flavour)
    const { q, exponent } = integers(weights)
    for (const form of ['first', 'last'] as const) {
      const backend = forms.backend
      const { router, routerExponent } = backend.packRouter(form === 'first' ? weights : weights.slice())
      test.same(Array.from(router, BigInt), q, `${flavour}: integers`)
      test.equal(routerExponent, exponent, `${flavour}: exponent`)
    }
  }
  for (const most of [2 ** 127, 3.4028234663852886e38, 1, 2 ** -149, 0]) {
    const weights = Float32Array.of(most, -most, most / 3, 0)
    const { q, exponent } = integers(weights)
    const packed = forms.backend.packRouter(weights)
    test.same(Array.from(packed.router, BigInt), q, `${most}: integers`)
    test.equal(packed.routerExponent, exponent, `${most}: exponent`)
  }
})

t.test('a mask leaves only enabled experts, and their softmax', async (test) => {
  for (const form of ['softmax_topk', 'topk_softmax'] as const) {
    const next = stream(`mask ${form}`)
    const request: RouteRequest = {
      states: floats(6 * 40, next),
      ...forms.backend.packRouter(floats(20 * 40, next)),
      experts: 20,
      k: 3,
      positions: Uint32Array.of(0, 1, 2, 3, 4, 5),
      form,
      enabled: Uint8Array.from({ length: 20 }, (_, e) => (e % 3 === 1 ? 255 : 0))
    }
    const { ids } = await check(test, `mask, ${form}`, request)
    test.ok(
      ids.every((id) => id % 3 === 1),
      'only enabled experts are chosen'
    )
    const all = { ...request, enabled: new Uint8Array(20).fill(1) }
    const { enabled: _, ...none } = request
    const [masked, plain] = [
      forms.naive('route', form, { request: () => all }),
      forms.naive('route', form, { request: () => none })
    ]
    test.same(masked.result.weights, plain.result.weights, 'a mask that enables all changes nothing')
  }
})

t.test('each token its own mask', async (test) => {
  const [experts, tokens] = [20, 7]
  for (const form of ['softmax_topk', 'topk_softmax'] as const) {
    const next = stream(`masks ${form}`)
    const request: RouteRequest = {
      states: floats(tokens * 40, next),
      ...forms.backend.packRouter(floats(experts * 40, next)),
      experts,
      k: 3,
      positions: Uint32Array.from({ length: tokens }, (_, i) => i),
      form,
      enabled: Uint8Array.from({ length: 2 * experts }, (_, i) => (i % 3 === Math.floor(i / experts) ? 1 : 0)),
      maskOf: Uint32Array.of(0, 1, 1, 0xffffffff, 0, 0xffffffff, 1)
    }
    await check(test, `masks, ${form}`, request)
    for (const mask of [2, 2 ** 31])
      await forms.sameError(
        'route',
        `mask ${mask}`,
        { request: (memory) => place(memory, { ...request, maskOf: new Uint32Array(tokens).fill(mask) }) },
        'VALIDATION_ERROR'
      )
    const empty = { ...request, enabled: new Uint8Array(2 * experts) }
    const own = { request: (memory: Memory) => place(memory, empty) }
    await forms.sameError('route', 'a mask of nothing', own, 'VALIDATION_ERROR', { enabled: 0 })
  }
})

t.test('k of all experts, and the sum of weights', async (test) => {
  for (const form of ['softmax_topk', 'topk_softmax'] as const) {
    for (const normalise of [false, true]) {
      const next = stream(`all ${form} ${normalise}`)
      const request: RouteRequest = {
        states: floats(3 * 24, next),
        ...forms.backend.packRouter(floats(17 * 24, next)),
        experts: 17,
        k: 17,
        positions: Uint32Array.of(7, 8, 9),
        form,
        normalise
      }
      const { weights, ids } = await check(test, `k = 17 of 17, ${form}, normalise ${normalise}`, request)
      for (let token = 0; token < 3; token++) {
        const sum = weights.slice(token * 17, (token + 1) * 17).reduce((a, b) => a + b, 0)
        test.ok(Math.abs(sum - 1) < 1e-6, 'all weights add up to 1')
        test.equal(new Set(ids.slice(token * 17, (token + 1) * 17)).size, 17, 'each expert once')
      }
    }
  }
})

t.test('the two forms choose the same experts and weigh them over different sets', async (test) => {
  const next = stream('forms')
  const request: RouteRequest = {
    states: floats(5 * 32, next),
    ...forms.backend.packRouter(floats(16 * 32, next)),
    experts: 16,
    k: 4,
    positions: Uint32Array.of(0, 1, 2, 3, 4)
  }
  const before = await check(test, 'softmax_topk', request)
  const after = await check(test, 'topk_softmax', { ...request, form: 'topk_softmax' })
  test.same(before.ids, after.ids)
  test.notSame(before.weights, after.weights)
  const normalised = await check(test, 'softmax_topk, normalised', { ...request, normalise: true })
  for (let i = 0; i < 20; i++)
    test.ok(Math.abs(normalised.weights[i]! - after.weights[i]!) < 1e-6, 'normalised, they agree')
})

t.test('values at the ends of the float range', async (test) => {
  for (const [name, size] of Object.entries({ huge: 3e38, 'almost nothing': 2 ** -140, large: 2 ** 60 })) {
    const next = stream(name)
    const states = floats(2 * 24, next).map((x) => x * (Math.abs(x) < 1 ? size : size / 4))
    const { router, routerExponent } = forms.backend.packRouter(floats(8 * 24, next, 'normal', 2 ** -20))
    const request: RouteRequest = { states, router, routerExponent, experts: 8, k: 2, positions: Uint32Array.of(0, 1) }
    await forms.sameBits('route', name, { request: (memory) => place(memory, request) })
    const { result } = forms.naive('route', name, { request: (memory) => place(memory, request) })
    for (let token = 0; token < 2; token++)
      test.same([...result.ids.slice(2 * token, 2 * token + 2)], routeToken(request, token).ids, `${name}: ids`)
  }
})

t.test('a value that is not finite', async () => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    const next = stream('bad')
    const states = floats(3 * 20, next)
    states[20 + 19] = bad
    const request = {
      states,
      ...forms.backend.packRouter(floats(4 * 20, next)),
      experts: 4,
      k: 2,
      positions: new Uint32Array(3)
    }
    await forms.sameError('route', `${bad}`, { request: (memory) => place(memory, request) }, 'RUNTIME_NAN_DETECTED', {
      token: 1
    })
  }
})

t.test('routers and logits beyond their range', async () => {
  const request: RouteRequest = {
    states: new Float32Array(4).fill(1),
    router: new Int32Array(8).fill(2 ** 23),
    routerExponent: 0,
    experts: 2,
    k: 1,
    positions: new Uint32Array(1)
  }
  await forms.sameBits('route', 'the largest integers', { request: (memory) => place(memory, request) })
  for (const number of [2 ** 23 + 1, -(2 ** 23) - 1, 2 ** 31 - 1, -(2 ** 31)]) {
    const router = request.router.slice()
    router[7] = number
    const own = { request: (memory: Memory) => place(memory, { ...request, router }) }
    await forms.sameError('route', `a router with ${number}`, own, 'VALIDATION_ERROR')
  }
  const large = { ...request, states: new Float32Array(4).fill(3e38), routerExponent: 100 }
  await forms.sameError('route', 'huge logits', { request: (memory) => place(memory, large) }, 'RUNTIME_NAN_DETECTED', {
    token: 0
  })
})

t.test('fewer experts enabled than are to be chosen', async () => {
  const next = stream('few')
  const request: RouteRequest = {
    states: floats(20, next),
    ...forms.backend.packRouter(floats(4 * 20, next)),
    experts: 4,
    k: 3,
    positions: new Uint32Array(1)
  }
  const two = { ...request, enabled: Uint8Array.of(0, 1, 0, 1) }
  await forms.sameError('route', '2 of 4', { request: (memory) => place(memory, two) }, 'VALIDATION_ERROR')
  const five = { ...request, k: 5 }
  await forms.sameError('route', 'k = 5 of 4', { request: (memory) => place(memory, five) }, 'VALIDATION_ERROR')
})

/** Routes with biases, sigmoids, groups and scales: the bits of every form of the kernels, and the oracle's choices. */
import t, { type Test } from 'tap'
import type { RouteRequest } from 'tiered-moe/kernels'
import { Forms } from './forms.js'
import type { Memory } from './memory.js'
import { routeToken } from './oracle-moe.js'
import { sigmoidQ30 } from './oracle-route.js'
import { extras, formCases, formMisfits, formRequest } from './route-form-cases.js'
import { checkRoutes, placeFlat as place } from './routes.js'
import { floats, stream, whole } from './values.js'

const forms = new Forms(t)
const check = (test: Test, label: string, request: RouteRequest) =>
  checkRoutes(test, forms, label, request, { place, oracle: routeToken })

t.test('every combination', async (test) => {
  for (const { label, request } of formCases(forms.backend)) await check(test, label, request)
})

t.test('the sigmoid in Q30 is near the true one, and monotone', async (test) => {
  const next = stream('sigmoid')
  const logits = [0, 2 ** -27, -(2 ** -27), 0.5, 16, 20.79, 21.5, 31.9, 32, 1000, -1000]
  for (let i = 0; i < 3000; i++) logits.push((next() - 0.5) * 2 ** whole(next, -20, 7))
  for (const logit of logits) {
    const score = BigInt(Math.round(logit * 2 ** 40))
    const exact = 2 ** 30 / (1 + Math.exp(-Number(score) * 2 ** -40))
    const off = Math.abs(Number(sigmoidQ30(score, -40)) - exact)
    if (!(off <= 2)) test.fail(`${logit}: off by ${off} units of 2^-30`)
  }
  // steps of the argument, 2^-27, about numbers of every size
  for (let i = 0; i < 200; i++) {
    const from = BigInt(Math.round((next() - 0.5) * 2 ** whole(next, 0, 5) * 2 ** 27))
    for (let step = 0n; step < 20n; step++)
      if (sigmoidQ30(from + step, -27) > sigmoidQ30(from + step + 1n, -27)) test.fail(`falls after ${from + step}`)
  }
  test.pass('within 2 units, never falling')
})

t.test('ranks one unit apart: the Q30 sums decide, to the last bit', async (test) => {
  const [experts, width, tokens] = [40, 8, 6]
  for (const score of ['max', 'top2'] as const) {
    const next = stream(`near ${score}`)
    const router = forms.backend.packRouter(floats(experts * width, next, 'normal', 0.7))
    const states = floats(tokens * width, next)
    const base: RouteRequest = {
      states: states.subarray(0, width),
      ...router,
      experts,
      k: 6,
      form: 'sigmoid',
      positions: Uint32Array.of(0)
    }
    for (let token = 0; token < tokens; token++) {
      const own = { ...base, states: states.subarray(token * width, (token + 1) * width) }
      const { scores } = routeToken(own, 0)
      // the bias takes each sigmoid to one level, but for a unit up or down; what the exponent of the scores is comes from the weights
      const { exponent } = scoreExponent(own)
      const selectionBias = BigInt64Array.from(
        scores,
        (s) => 2n ** 30n - sigmoidQ30(s, exponent) + BigInt(whole(next, -1, 1))
      )
      await check(test, `near ties, token ${token}`, {
        ...own,
        selectionBias,
        groups: { count: 8, used: 3, score }
      })
    }
  }
})

/** Of exact scores: the states' and the router's exponents, less 46. */
function scoreExponent({ states, routerExponent }: RouteRequest): { exponent: number } {
  const most = Math.max(...states.map(Math.abs))
  return { exponent: Math.max(-103, Math.floor(Math.log2(most)) + 1) + routerExponent - 46 }
}

t.test('a selection bias changes the choice, not the weights of what is chosen', async (test) => {
  const shape = { experts: 12, k: 12, width: 16, groups: [1, 1] as [number, number] }
  const own = { form: 'sigmoid', bias: false, selectionBias: true, groups: undefined } as const
  const request = { ...formRequest(forms.backend, shape, own, 'selection'), normalise: false, scale: 1 }
  const { selectionBias: _, ...unbiased } = request
  const [a, b] = [await check(test, 'with', request), await check(test, 'without', unbiased)]
  test.notSame(a.ids, b.ids, 'another order')
  const byExpert = ({ ids, weights }: typeof a) => Array.from(ids, (id, i) => [id, weights[i]]).sort()
  test.same(byExpert(a), byExpert(b), 'each expert has its own weight')
})

t.test('a scale multiplies what there was', async (test) => {
  for (const own of extras.filter(({ bias }) => bias)) {
    const shape = { experts: 12, k: 4, width: 16, groups: [3, 2] as [number, number] }
    const request = { ...formRequest(forms.backend, shape, own, 'scale'), scale: 1 }
    const [once, four] = [await check(test, 'once', request), await check(test, 'four', { ...request, scale: 4 })]
    test.same(
      four.weights,
      once.weights.map((w) => 4 * w)
    )
  }
})

t.test('all chosen sigmoids are zero: normalised, they stay zero', async (test) => {
  const request: RouteRequest = {
    states: new Float32Array(4).fill(1000),
    ...forms.backend.packRouter(new Float32Array(32).fill(-1)),
    experts: 8,
    k: 2,
    form: 'sigmoid',
    normalise: true,
    positions: Uint32Array.of(3)
  }
  const { weights } = await check(test, 'zeros', request)
  test.same([...weights], [0, 0])
})

t.test('states of zeros: the bias alone decides', async (test) => {
  for (const form of ['softmax_topk', 'topk_softmax', 'sigmoid'] as const) {
    const bias = Float32Array.from({ length: 9 }, (_, e) => ((e * 4) % 9) / 8)
    const request: RouteRequest = {
      states: new Float32Array(24),
      ...forms.backend.packRouter(floats(9 * 24, stream('zeros'))),
      ...forms.backend.packBias(bias),
      experts: 9,
      k: 3,
      form,
      positions: Uint32Array.of(0)
    }
    const { ids } = await check(test, form, request)
    test.same(
      [...ids].map((id) => bias[id]),
      [1, 7 / 8, 6 / 8]
    )
  }
})

t.test('masks and groups', async (test) => {
  const shape = { experts: 24, k: 4, width: 16, groups: [6, 2] as [number, number] }
  const masks = {
    'single experts': (e: number) => e % 4 !== 1,
    'whole groups': (e: number) => e >= 8,
    'one group': (e: number) => e >= 4 && e < 8,
    'two of each': (e: number) => e % 4 < 2
  }
  const kinds = Object.values(masks)
  const bits = Uint8Array.from(kinds.flatMap((on) => Array.from({ length: 24 }, (_, e) => Number(on(e)))))
  for (const own of extras.filter(({ groups }) => groups)) {
    const request = formRequest(forms.backend, shape, own, `masks ${own.form}`)
    for (const [i, name] of Object.keys(masks).entries())
      await check(test, name, { ...request, enabled: bits.subarray(24 * i, 24 * (i + 1)) })
    await check(test, 'by token', { ...request, enabled: bits, maskOf: Uint32Array.of(2, 0xffffffff, 1, 3) })
    await check(test, 'ties', {
      ...request,
      enabled: bits,
      maskOf: Uint32Array.of(0, 1, 3, 2),
      states: new Float32Array(64)
    })
    // six are enabled, but the two groups that stay have two of them
    const few = Uint8Array.from({ length: 24 }, (_, e) => Number(e % 4 === 0))
    const misfit = { request: (memory: Memory) => place(memory, { ...request, enabled: few }) }
    await forms.sameError('route', `too few, ${own.form}`, misfit, 'VALIDATION_ERROR', { level: 'group', k: 4 })
  }
})

t.test('what does not fit is refused', async () => {
  const { good, bad } = formMisfits(forms.backend)
  for (const [name, more] of Object.entries(bad)) {
    const request = { ...good, ...more }
    await forms.sameError('route', name, { request: (memory) => place(memory, request) }, 'VALIDATION_ERROR')
  }
})

t.test('biases are packed as they are documented', async (test) => {
  const { backend } = forms
  test.same(backend.packSelectionBias(Float32Array.of(1, -0.5, 2 ** -30, 2 ** -31, 3 * 2 ** -31, 1e30, -1e30)), [
    2n ** 30n,
    -(2n ** 29n),
    1n,
    0n,
    2n,
    2n ** 61n,
    -(2n ** 61n)
  ])
  test.same(backend.packBias(Float32Array.of(1, -3, 2 ** -21, 2 ** -23)), {
    bias: Int32Array.of(2 ** 21, -3 * 2 ** 21, 1, 0),
    biasExponent: 2
  })
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
    test.throws(() => backend.packSelectionBias(Float32Array.of(0, bad)), { code: 'RUNTIME_NAN_DETECTED' })
    test.throws(() => backend.packBias(Float32Array.of(0, bad)), { code: 'RUNTIME_NAN_DETECTED' })
  }
})

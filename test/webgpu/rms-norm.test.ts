import t from 'tap'
import { firstFar } from '../kernels/close.js'
import { rmsNormOracle } from '../kernels/oracle-dense.js'
import { tolerances } from '../kernels/tolerance.js'
import { flavours, floats, stream, whole } from '../kernels/values.js'
import { openGpu } from './adapter.js'

const gpu = await openGpu(t)

if (gpu) {
  t.test('grid', async (test) => {
    for (const n of [1, 15, 16, 17, 33, 257]) {
      for (const flavour of flavours) {
        const label = `n ${n}, ${flavour}`
        const next = stream(label)
        const x = floats(whole(next, 0, 5) * n, next, flavour)
        const weight = floats(n, next)
        const result = await gpu.rmsNorm({ x, weight, epsilon: 1e-5 })
        test.equal(firstFar(result, rmsNormOracle(x, weight, 1e-5), tolerances.rmsNormGpu), undefined, label)
      }
    }
  })

  t.test('arrays that stay on the device', async (test) => {
    const next = stream('device')
    const host = floats(3 * 37, next)
    const weight = floats(37, next)
    const expected = await gpu.rmsNorm({ x: host, weight, epsilon: 1e-5 })
    const x = await gpu.upload(host)
    const out = await gpu.allocate('f32', host.length)
    // Not awaited one by one: calls run in the order in which they are made.
    const apart = gpu.rmsNorm({ x, weight, epsilon: 1e-5, out })
    const read = out.read()
    const inPlace = gpu.rmsNorm({ x, weight, epsilon: 1e-5, out: x })
    const changed = x.read()
    test.equal(await apart, out, 'the result is the array that was given')
    test.same(await read, expected)
    test.equal(await inPlace, x)
    test.same(await changed, expected, 'in place')
    out.dispose()
    await test.rejects(gpu.rmsNorm({ x, weight, epsilon: 1e-5, out }), {
      code: 'VALIDATION_ERROR',
      details: { argument: 'out' }
    })
  })

  t.test('arrays that are disposed of while calls with them are under way', async (test) => {
    const host = floats(3 * 37, stream('device'))
    const weight = new Float32Array(37).fill(1)
    const expected = await gpu.rmsNorm({ x: host, weight, epsilon: 1e-5 })
    const [x, out] = [await gpu.upload(host), await gpu.allocate('f32', host.length)]
    const calls = [gpu.rmsNorm({ x, weight, epsilon: 1e-5, out }), out.read(), x.read()]
    x.dispose()
    out.dispose()
    const refused = { code: 'VALIDATION_ERROR' }
    await test.rejects(out.read(), refused, 'a later call')
    await test.rejects(gpu.rmsNorm({ x, weight, epsilon: 1e-5 }), { ...refused, details: { argument: 'x' } })
    const [, normed, read] = await Promise.all(calls)
    test.same([normed, read], [expected, host], 'those before have them')
  })

  t.test('a row without a finite sum of squares', async (test) => {
    for (const bad of [Number.NaN, Number.NEGATIVE_INFINITY, 1e20]) {
      const x = floats(4 * 33, stream('bad'))
      x[2 * 33 + 32] = bad
      x[3 * 33] = bad
      const out = new Float32Array(x.length).fill(7)
      await test.rejects(gpu.rmsNorm({ x, weight: new Float32Array(33), epsilon: 1e-5, out }), {
        code: 'RUNTIME_NAN_DETECTED',
        details: { token: 2 }
      })
      test.ok(
        out.every((value) => value === 7),
        'nothing was written'
      )
    }
  })

  t.test('refused', async (test) => {
    const x = new Float32Array(6)
    const cases: [object, string][] = [
      [{ x: new Float64Array(6), weight: x, epsilon: 0 }, 'x'],
      [{ x, weight: new Float32Array(4), epsilon: 0 }, 'x'],
      [{ x, weight: x, epsilon: -1 }, 'epsilon'],
      [{ x, weight: x, epsilon: 0, out: new Float32Array(5) }, 'out']
    ]
    for (const [request, argument] of cases) {
      const refused = (gpu.rmsNorm as (request: object) => Promise<unknown>)(request)
      await test.rejects(refused, { code: 'VALIDATION_ERROR', details: { argument } })
    }
  })
}

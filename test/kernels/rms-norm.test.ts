import t from 'tap'
import { firstFar } from './close.js'
import { Forms } from './forms.js'
import { rmsNormOracle } from './oracle-dense.js'
import { lengths } from './shapes.js'
import { tolerances } from './tolerance.js'
import { flavours, floats, stream, whole } from './values.js'

const forms = new Forms(t)

t.test('grid', async (test) => {
  for (const n of [...lengths, 1000]) {
    for (const flavour of flavours) {
      const label = `n ${n}, ${flavour}`
      const next = stream(label)
      const x = floats(whole(next, 0, 5) * n, next, flavour)
      const weight = floats(n, next, flavour === 'tiny' ? 'tiny' : 'normal')
      const epsilon = [0, 1e-6, 1e-5, 1][whole(next, flavour === 'normal' ? 0 : 1, 3)]!
      const { result } = await forms.sameBits('rmsNorm', label, {
        request: (memory) => ({
          x: memory.input('x', x),
          weight: memory.input('weight', weight),
          epsilon,
          out: memory.floats('out', x.length)
        }),
        row: n
      })
      test.equal(firstFar(result, rmsNormOracle(x, weight, epsilon), tolerances.rmsNorm), undefined, `${label}: oracle`)
    }
  }
})

t.test('in place', async (test) => {
  const next = stream('place')
  const x = floats(3 * 37, next, 'heavy')
  const weight = floats(37, next)
  const apart = forms.naive('rmsNorm', 'apart', { request: () => ({ x, weight, epsilon: 1e-5 }) })
  const { result } = await forms.sameBits('rmsNorm', 'in place', {
    request: (memory) => {
      const own = memory.inout('x', x)
      return { x: own, weight, epsilon: 1e-5, out: own }
    }
  })
  test.same(result, apart.result)
})

t.test('a row without a finite sum of squares', async () => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 1e20]) {
    const x = floats(4 * 33, stream('bad'))
    x[2 * 33 + 32] = bad
    x[3 * 33] = bad
    await forms.sameError(
      'rmsNorm',
      `${bad}`,
      {
        request: (memory) => ({
          x: memory.input('x', x),
          weight: new Float32Array(33),
          epsilon: 1e-5,
          out: memory.floats('out', x.length)
        })
      },
      'RUNTIME_NAN_DETECTED',
      { token: 2 }
    )
  }
})

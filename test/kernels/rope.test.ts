import t from 'tap'
import { firstFar } from './close.js'
import { Forms } from './forms.js'
import { ropeOracle } from './oracle-dense.js'
import { scaledRopes } from './rope-scalings.js'
import { ropePlaces, ropeShapes } from './shapes.js'
import { tolerances } from './tolerance.js'
import { flavours, floats, stream, whole } from './values.js'

const forms = new Forms(t)
t.test('grid', async (test) => {
  for (const { heads, headDim, rotaryDim } of ropeShapes) {
    for (const pairs of ['neox', 'interleaved'] as const) {
      for (const base of [1, 10_000, 500_000, 1e15]) {
        const label = `${heads} × ${headDim}, rotary ${rotaryDim}, ${pairs}, base ${base}`
        const next = stream(label)
        const positions = Uint32Array.from({ length: whole(next, 0, 5) }, () => ropePlaces[whole(next, 0, 7)]!)
        const x = floats(positions.length * heads * headDim, next, flavours[whole(next, 0, 3)]!)
        const { result } = await forms.sameBits('rope', label, {
          request: (memory) => ({
            x: memory.inout('x', x),
            positions: memory.input('positions', positions),
            heads,
            headDim,
            rotaryDim,
            base,
            pairs
          }),
          row: headDim
        })
        const oracle = ropeOracle({ x, positions, heads, headDim, rotaryDim, base, pairs })
        test.equal(firstFar(result, oracle, tolerances.rope), undefined, `${label}: the oracle`)
      }
    }
  }
})

t.test('scaled frequencies', async (test) => {
  for (const { name, base, rotaryDim, scaling, divisors, frequencies, magnitude } of scaledRopes) {
    for (const pairs of ['neox', 'interleaved'] as const) {
      const [heads, headDim] = [2, rotaryDim + 4]
      const next = stream(name)
      const positions = Uint32Array.of(0, 1, 77, 4095, 131_071)
      const x = floats(positions.length * heads * headDim, next)
      const { result } = await forms.sameBits('rope', `${name}, ${pairs}`, {
        request: (memory) => ({
          x: memory.inout('x', x),
          positions: memory.input('positions', positions),
          heads,
          headDim,
          rotaryDim,
          base,
          pairs,
          ...(scaling && { scaling }),
          ...(divisors && { divisors: memory.input('divisors', divisors) })
        }),
        row: headDim
      })
      const oracle = ropeOracle({ x, positions, heads, headDim, rotaryDim, base, pairs, frequencies, magnitude })
      for (const [i, reckoned] of oracle.entries()) if (i % headDim >= rotaryDim) reckoned.value = x[i]!
      test.equal(firstFar(result, oracle, tolerances.rope), undefined, `${name}, ${pairs}: the oracle`)
    }
  }
})

t.test('position 0 changes nothing, and what is past rotaryDim never changes', async (test) => {
  const x = floats(2 * 40, stream('rest'))
  const own = (positions: Uint32Array) => ({
    request: () => ({ x: x.slice(), positions, heads: 1, headDim: 40, rotaryDim: 24, base: 10_000 })
  })
  const start = await forms.sameBits('rope', 'position 0', own(new Uint32Array(2)))
  test.same(start.result, x)
  const later = await forms.sameBits('rope', 'later', own(Uint32Array.of(5, 77)))
  for (const token of [0, 1])
    test.same(later.result.slice(40 * token + 24, 40 * token + 40), x.slice(40 * token + 24, 40 * token + 40))
})

t.test('numbers that do not fit', async () => {
  const good = { x: new Float32Array(16), positions: new Uint32Array(2), heads: 1, headDim: 8, base: 10_000 }
  const bad = [
    { rotaryDim: 3 },
    { rotaryDim: 10 },
    { rotaryDim: 0 },
    { headDim: 16 },
    { heads: 2 },
    { base: 0.5 },
    { base: Number.NaN },
    { divisors: new Float32Array(3) },
    { divisors: new Float32Array(4) },
    { divisors: Float32Array.of(1, 1e-30, 1, 1) },
    { divisors: new Float32Array(5).fill(1) },
    { scaling: null as never },
    { scaling: { factor: 0.5, magnitude: 1 } },
    { scaling: { factor: 2, magnitude: 0 } },
    { scaling: { factor: 2, magnitude: 1, keep: { by: 'pair', none: 3, all: 3, most: 1 } as const } },
    { scaling: { factor: 2, magnitude: 1, keep: { by: 'turn' as 'pair', none: 3, all: 4, most: 1 } } },
    {
      scaling: { factor: 2, magnitude: 1, keep: { by: 'turns', none: 1, all: 4, most: 1, originalContext: 0 } as const }
    }
  ]
  for (const part of bad)
    await forms.sameError('rope', JSON.stringify(part), { request: () => ({ ...good, ...part }) }, 'VALIDATION_ERROR')
})

import t from 'tap'
import { firstFar } from './close.js'
import { Forms } from './forms.js'
import { ropeOracle } from './oracle-dense.js'
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
    { base: Number.NaN }
  ]
  for (const part of bad)
    await forms.sameError('rope', JSON.stringify(part), { request: () => ({ ...good, ...part }) }, 'VALIDATION_ERROR')
})

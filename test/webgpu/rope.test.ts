import t from 'tap'
import { firstFar } from '../kernels/close.js'
import { ropeOracle } from '../kernels/oracle-dense.js'
import { scaledRopes } from '../kernels/rope-scalings.js'
import { ropePlaces, ropeShapes } from '../kernels/shapes.js'
import { tolerances } from '../kernels/tolerance.js'
import { flavours, floats, stream, whole } from '../kernels/values.js'
import { openGpu } from './adapter.js'

const gpu = await openGpu(t)

if (gpu) {
  t.test('grid', async (test) => {
    for (const shape of ropeShapes) {
      for (const pairs of ['neox', 'interleaved'] as const) {
        for (const base of [1, 10_000, 1e15]) {
          const label = `${JSON.stringify(shape)}, ${pairs}, base ${base}`
          const next = stream(label)
          const positions = Uint32Array.from({ length: whole(next, 0, 5) }, () => ropePlaces[whole(next, 0, 7)]!)
          const x = floats(positions.length * shape.heads * shape.headDim, next, flavours[whole(next, 0, 3)]!)
          const own = x.slice()
          const result = await gpu.rope({ x: own, positions, ...shape, base, pairs })
          test.equal(result, own, 'in place')
          const oracle = ropeOracle({ x, positions, ...shape, base, pairs })
          test.equal(firstFar(result, oracle, tolerances.ropeGpu), undefined, label)
        }
      }
    }
  })

  t.test('scaled frequencies', async (test) => {
    for (const { name, base, rotaryDim, scaling, divisors, frequencies, magnitude } of scaledRopes) {
      const [heads, headDim, pairs] = [2, rotaryDim, 'neox'] as const
      const positions = Uint32Array.of(0, 1, 77, 4095, 131_071)
      const x = floats(positions.length * heads * headDim, stream(name))
      const request = {
        positions,
        heads,
        headDim,
        base,
        pairs,
        ...(scaling && { scaling }),
        ...(divisors && { divisors })
      }
      const result = await gpu.rope({ x: x.slice(), ...request })
      const oracle = ropeOracle({ x, positions, heads, headDim, rotaryDim, base, pairs, frequencies, magnitude })
      test.equal(firstFar(result, oracle, tolerances.ropeGpu), undefined, name)
    }
  })

  t.test('what is past rotaryDim, and past the positions, never changes', async (test) => {
    const x = floats(3 * 40, stream('rest'))
    const own = x.slice()
    await gpu.rope({ x: own, positions: Uint32Array.of(5, 77), heads: 1, headDim: 40, rotaryDim: 24, base: 10_000 })
    for (const token of [0, 1]) {
      test.same(own.slice(40 * token + 24, 40 * token + 40), x.slice(40 * token + 24, 40 * token + 40))
      test.notSame(own.slice(40 * token, 40 * token + 24), x.slice(40 * token, 40 * token + 24))
    }
    test.same(own.slice(80), x.slice(80))
  })

  t.test('on the device', async (test) => {
    const positions = Uint32Array.of(3, 70_000)
    const x = floats(2 * 2 * 12, stream('device'))
    const host = await gpu.rope({ x: x.slice(), positions, heads: 2, headDim: 12, base: 10_000 })
    const device = await gpu.upload(x)
    const result = await gpu.rope({ x: device, positions, heads: 2, headDim: 12, base: 10_000 })
    test.equal(result, device)
    test.same(await device.read(), host)
    device.dispose()
  })

  t.test('refused', async (test) => {
    const good = { x: new Float32Array(16), positions: new Uint32Array(2), heads: 1, headDim: 8, base: 10_000 }
    for (const part of [
      { rotaryDim: 3 },
      { rotaryDim: 10 },
      { rotaryDim: 0 },
      { headDim: 16 },
      { heads: 2 },
      { base: 0.5 },
      { base: Number.NaN }
    ])
      await test.rejects(gpu.rope({ ...good, ...part }), { code: 'VALIDATION_ERROR' }, JSON.stringify(part))
  })
}

import t from 'tap'
import type { DType, WebgpuBackend } from 'tiered-moe/kernels'
import { dtypes, openBackend } from 'tiered-moe/kernels'
import { firstFar } from '../kernels/close.js'
import { decodeRow, dotRow } from '../kernels/oracle-weights.js'
import { columnsOf } from '../kernels/shapes.js'
import { tolerances } from '../kernels/tolerance.js'
import { flavours, floats, isQuantised, stream, weights, whole } from '../kernels/values.js'
import { openGpu } from './adapter.js'

const cpu = openBackend('cpu')
t.teardown(() => cpu.dispose())
const gpu = await openGpu(t)
const plain = gpu && (await openGpu(t, { without: ['subgroups', 'f16', 'dot4'] }))

/** Logits of a matrix of seeded weights against the oracle in doubles. */
async function far(backend: WebgpuBackend, type: DType, rows: number, columns: number, tokens: number, turn: number) {
  const flavour = flavours[turn % flavours.length]!
  const label = `${type}, ${rows} × ${columns}, ${tokens} tokens, ${flavour}`
  const matrix = weights(type, rows, columns, stream(`${type} ${rows} × ${columns}`))
  const states = floats(tokens * columns, stream(label), flavour)
  const result = await backend.logits({ states, weight: cpu.pack(matrix) })
  const oracle = Array.from(result, (_, i) => {
    const token = Math.floor(i / rows)
    return dotRow(matrix, i % rows, states.subarray(token * columns, (token + 1) * columns))
  })
  const tolerance = isQuantised(type) ? tolerances.matmulQuantisedGpu : tolerances.matmulFloatGpu
  return { label, where: firstFar(result, oracle, tolerance) }
}

if (gpu && plain) {
  t.test('grid', async (test) => {
    let turn = 0
    for (const type of dtypes) {
      const [least = 0] = columnsOf[type]
      // Rows below, at and above the 16 that interleave and the 32 of a workgroup; tiles of 4 tokens, and of 1 and 8 for two types.
      const shapes: [rows: number, columns: number, tokens: number][] = [
        [17, columnsOf[type].at(-1)!, 3],
        [1, least, 4],
        [33, least, 0]
      ]
      if (type === 'Q4_0' || type === 'F16') shapes.push([50, 96, 1], [32, 32, 1], [33, 96, 13])
      for (const [rows, columns, tokens] of shapes) {
        const { label, where } = await far(gpu, type, rows, columns, tokens, turn++)
        test.equal(where, undefined, label)
      }
    }
  })

  t.test('without subgroups, f16 and dot4', async (test) => {
    for (const [turn, type] of (['F16', 'Q8_0', 'Q6_K'] as const).entries()) {
      const { label, where } = await far(plain, type, 18, columnsOf[type].at(-1)!, 3, turn)
      test.equal(where, undefined, label)
    }
  })

  t.test('a token has the same bits alone and among others', async (test) => {
    for (const type of ['Q4_0', 'F16'] as const) {
      const matrix = cpu.pack(weights(type, 40, 96, stream(`alone ${type}`)))
      const states = floats(9 * 96, stream('alone'))
      const all = await gpu.logits({ states, weight: matrix })
      for (const token of [0, 4, 8]) {
        const alone = await gpu.logits({ states: states.slice(token * 96, (token + 1) * 96), weight: matrix })
        test.same(alone, all.slice(token * 40, (token + 1) * 40), `${type}, token ${token}`)
      }
    }
  })

  t.test('a state that is not finite meets quantised weights', async (test) => {
    const weight = cpu.pack(weights('Q8_0', 20, 64, stream('bad')))
    for (const bad of [Number.NaN, Number.NEGATIVE_INFINITY]) {
      const states = floats(4 * 64, stream('bad'))
      states[2 * 64 + 63] = bad
      states[3 * 64] = bad
      const refused = gpu.logits({ states, weight })
      await test.rejects(refused, { code: 'RUNTIME_NAN_DETECTED', details: { token: 2 } })
    }
  })

  t.test('embed and dequantize: the numbers of the file', async (test) => {
    for (const type of dtypes) {
      const columns = columnsOf[type].at(-1)!
      const next = stream(`embed ${type}`)
      const table = weights(type, 11, columns, next)
      const ids = Int32Array.from({ length: 5 }, () => whole(next, 0, 10))
      const rows = Array.from({ length: 11 }, (_, row) => Array.from(decodeRow(table, row), Math.fround))
      const close = (got: Float32Array, wanted: number[]) =>
        test.ok(
          got.every((value, i) => Math.abs(value - wanted[i]!) <= 2 ** -126),
          `${type}: all but denormals are equal`
        )
      close(
        await gpu.embed({ table, ids }),
        Array.from(ids).flatMap((id) => rows[id]!)
      )
      close(await gpu.dequantize({ type, data: table.data, columns }), rows.flat())
    }
    test.equal((await gpu.embed({ table: weights('F32', 2, 3, stream('e')), ids: new Int32Array() })).length, 0)
  })

  t.test('refused', async (test) => {
    const weight = cpu.pack(weights('Q4_0', 4, 32, stream('refused')))
    const states = new Float32Array(32)
    const table = weights('F16', 4, 8, stream('refused'))
    const cases: [() => Promise<unknown>, string][] = [
      [() => gpu.logits({ states: new Float32Array(33), weight }), 'states'],
      [() => gpu.logits({ states, weight: { ...weight, columns: 33 } }), 'weight.columns'],
      [() => gpu.logits({ states, weight: { ...weight, rows: 17 } }), 'weight.data'],
      [() => gpu.logits({ states, weight: { ...weight, type: 'Q2_K' as DType } }), 'weight.type'],
      [() => gpu.logits({ states, weight, out: new Float32Array(3) }), 'out'],
      [() => gpu.embed({ table, ids: Int32Array.of(0, 4) }), 'ids'],
      [() => gpu.embed({ table, ids: Int32Array.of(-1) }), 'ids'],
      [() => gpu.dequantize({ type: 'Q8_0', data: new Uint8Array(35), columns: 32 }), 'data']
    ]
    for (const [refused, argument] of cases)
      await test.rejects(refused(), { code: 'VALIDATION_ERROR', details: { argument } })
  })
}

import t from 'tap'
import { dtypes } from 'tiered-moe/kernels'
import { Forms } from './forms.js'
import { firstDifference } from './memory.js'
import { decodeRow, encodeRow } from './oracle-weights.js'
import { columnsOf } from './shapes.js'
import { blockShape, flavours, floats, stream, weights } from './values.js'

const forms = new Forms(t)
/** Types that can be read but not written. */
const readOnly = dtypes.filter((type) => !['F32', 'F16', 'BF16', 'Q8_0', 'Q4_0'].includes(type))

for (const type of dtypes) {
  t.test(`dequantize ${type}: any code and scale that a file may hold`, async (test) => {
    for (const columns of columnsOf[type]) {
      for (const rows of [0, 1, 2, 17]) {
        const label = `${type}, ${rows} × ${columns}`
        const matrix = weights(type, rows, columns, stream(label))
        const { result } = await forms.sameBits('dequantize', label, {
          request: (memory) => ({
            type,
            data: memory.input('data', matrix.data),
            columns,
            out: memory.floats('out', rows * columns)
          }),
          row: columns
        })
        const oracle = new Float32Array(rows * columns)
        for (let row = 0; row < rows; row++) oracle.set(decodeRow(matrix, row), row * columns)
        test.equal(firstDifference('out', result, oracle, columns), undefined, `${label}: the oracle's bits`)
      }
    }
  })
  if (readOnly.includes(type)) continue

  t.test(`quantize ${type}`, async (test) => {
    for (const columns of columnsOf[type]) {
      for (const rows of [0, 1, 17]) {
        for (const flavour of flavours) {
          const label = `${type}, ${rows} × ${columns}, ${flavour}`
          // f16 scales hold no more than 65504
          const x = floats(rows * columns, stream(label), flavour, flavour === 'heavy' ? 0.05 : 1)
          const { result } = await forms.sameBits('quantize', label, {
            request: (memory) => ({
              type,
              x: memory.input('x', x),
              columns,
              out: memory.bytes('out', (x.length / blockShape[type][0]) * blockShape[type][1])
            })
          })
          test.equal(firstDifference('out', result, encodeRow(type, x)), undefined, `${label}: the oracle's bits`)
        }
      }
    }
  })
}

t.test('every f16 and bf16 number', async (test) => {
  for (const type of ['F16', 'BF16'] as const) {
    const data = new Uint8Array(Uint16Array.from({ length: 65536 }, (_, i) => i).buffer)
    const { result } = await forms.sameBits('dequantize', `every ${type}`, {
      request: () => ({ type, data, columns: 65536 })
    })
    const oracle = decodeRow({ type, rows: 1, columns: 65536, data }, 0)
    let wrong = 0
    for (let i = 0; i < 65536; i++) if (!Object.is(result[i], oracle[i])) wrong++
    test.equal(wrong, 0, `${type}: read`)
    const back = await forms.sameBits('quantize', `every ${type}`, {
      request: () => ({ type, x: result.map((x) => (Number.isNaN(x) ? 0 : x)), columns: 65536 })
    })
    const numbers = new Uint16Array(back.result.slice().buffer)
    for (let i = 0; i < 65536; i++) if (!Number.isNaN(result[i]!) && numbers[i] !== i) wrong++
    test.equal(wrong, 0, `${type}: written back`)
  }
})

t.test('halves between two f16 or bf16 numbers go to the even one', async (test) => {
  for (const type of ['F16', 'BF16'] as const) {
    const bits = type === 'F16' ? 13 : 16
    const x = new Float32Array(
      Uint32Array.from({ length: 4096 }, (_, i) => {
        const exponent = 100 + (i % 50)
        const half = 1 << (bits - 1)
        return (exponent << 23) | ((i * 2654435761) & 0x7fffff & ~(2 * half - 1)) | (half + ((i >> 3) % 3) - 1)
      }).buffer
    )
    const { result } = await forms.sameBits('quantize', `${type} halves`, {
      request: () => ({ type, x, columns: 4096 })
    })
    test.equal(firstDifference('out', result, encodeRow(type, x)), undefined, type)
  }
})

t.test('what has no encoding', async () => {
  for (const type of ['Q8_0', 'Q4_0'] as const) {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 3e38]) {
      const x = floats(3 * 64, stream('bad'))
      x[64 + 63] = bad
      const own = { request: () => ({ type, x, columns: 64 }) }
      await forms.sameError('quantize', `${type}, ${bad}`, own, 'RUNTIME_NAN_DETECTED', { token: 1 })
    }
  }
  const x = new Float32Array(256)
  for (const type of readOnly)
    await forms.sameError('quantize', type, { request: () => ({ type, x, columns: 256 }) }, 'VALIDATION_ERROR')
  for (const columns of [0, 31, 33, 512, -32, Number.NaN])
    await forms.sameError(
      'quantize',
      `${columns}`,
      { request: () => ({ type: 'Q8_0', x, columns }) },
      'VALIDATION_ERROR'
    )
})

import t from 'tap'
import { dtypes, packedBytes } from 'tiered-moe/kernels'
import { firstFar } from './close.js'
import { Forms } from './forms.js'
import { dotRow } from './oracle-weights.js'
import { columnsOf, rowCounts, tokenCounts } from './shapes.js'
import { tolerances } from './tolerance.js'
import { flavours, floats, isQuantised, stream, weights } from './values.js'

const forms = new Forms(t)

for (const type of dtypes) {
  t.test(`${type}: grid`, async (test) => {
    let turn = 0
    for (const columns of columnsOf[type]) {
      for (const rows of rowCounts) {
        const matrix = weights(type, rows, columns, stream(`${type} ${rows} × ${columns}`))
        for (const tokens of tokenCounts) {
          const flavour = flavours[turn++ % flavours.length]!
          const label = `${type}, ${rows} × ${columns}, ${tokens} tokens, ${flavour}`
          const states = floats(tokens * columns, stream(label), flavour)
          const { result } = await forms.sameBits('logits', label, {
            request: (memory, naive) => ({
              states: memory.input('states', states),
              weight: forms.matrix(memory, 'weight', matrix, naive),
              out: memory.floats('out', tokens * rows)
            }),
            row: rows
          })
          if (tokens > 3) continue
          const oracle = Array.from(result, (_, i) => {
            const token = Math.floor(i / rows)
            return dotRow(matrix, i % rows, states.subarray(token * columns, (token + 1) * columns))
          })
          const tolerance = isQuantised(type) ? tolerances.matmulQuantised : tolerances.matmulFloat
          test.equal(firstFar(result, oracle, tolerance), undefined, `${label}: the oracle`)
        }
      }
    }
  })
}

t.test('pack: sizes, and rows that fill the last group', async (test) => {
  for (const type of dtypes) {
    const columns = columnsOf[type].at(-1)!
    for (const rows of rowCounts) {
      const matrix = weights(type, rows, columns, stream(`${type} ${rows}`))
      const packed = forms.backend.pack(matrix)
      test.equal(packed.data.length, packedBytes(type, rows, columns), `${type}, ${rows} rows`)
      const full = Math.ceil(rows / 16) * 16
      const filled = new Uint8Array((matrix.data.length / rows) * full)
      filled.set(matrix.data)
      const states = floats(2 * columns, stream('states'))
      const out = forms.backend.sync.logits({ states, weight: packed })
      const wide = forms.backend.sync.logits({
        states,
        weight: forms.backend.pack({ ...matrix, rows: full, data: filled })
      })
      for (let token = 0; token < 2; token++)
        test.same(
          wide.slice(token * full, token * full + rows),
          out.slice(token * rows, (token + 1) * rows),
          `${type}, ${rows} rows: neighbours do not matter`
        )
    }
  }
})

t.test('a value that is not finite meets quantised weights', async () => {
  for (const type of dtypes.filter(isQuantised)) {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      const matrix = weights(type, 5, 256, stream(type))
      const states = floats(3 * 256, stream('bad'))
      states[256 + 255] = bad
      await forms.sameError(
        'logits',
        `${type}, ${bad}`,
        {
          request: (memory, naive) => ({
            states: memory.input('states', states),
            weight: forms.matrix(memory, 'weight', matrix, naive),
            out: memory.floats('out', 15)
          })
        },
        'RUNTIME_NAN_DETECTED',
        { token: 1 }
      )
    }
  }
})

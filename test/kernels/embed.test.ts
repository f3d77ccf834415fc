import t from 'tap'
import { dtypes } from 'tiered-moe/kernels'
import { Forms } from './forms.js'
import { firstDifference } from './memory.js'
import { decodeRow } from './oracle-weights.js'
import { columnsOf, tokenCounts } from './shapes.js'
import { stream, weights, whole } from './values.js'

const forms = new Forms(t)

t.test('grid: every weight type, decoded exactly', async (test) => {
  for (const type of dtypes) {
    for (const columns of columnsOf[type]) {
      for (const tokens of tokenCounts) {
        const label = `${type}, ${columns} columns, ${tokens} tokens`
        const next = stream(label)
        const table = weights(type, 9, columns, next)
        const ids = Int32Array.from({ length: tokens }, () => whole(next, 0, 8))
        const { result } = await forms.sameBits('embed', label, {
          // the table stays in the file's layout
          request: (memory) => ({
            table: forms.matrix(memory, 'table', table, true),
            ids: memory.input('ids', ids),
            out: memory.floats('out', tokens * columns)
          }),
          row: columns
        })
        const oracle = new Float32Array(tokens * columns)
        for (const [i, id] of ids.entries()) oracle.set(decodeRow(table, id), i * columns)
        test.equal(firstDifference('out', result, oracle, columns), undefined, `${label}: the oracle's bits`)
      }
    }
  }
})

t.test('ids outside the table', async () => {
  for (const id of [-1, 9, 2 ** 31 - 1, -(2 ** 31)]) {
    const table = weights('Q8_0', 9, 32, stream('ids'))
    await forms.sameError(
      'embed',
      `${id}`,
      { request: () => ({ table, ids: Int32Array.of(0, id) }) },
      'VALIDATION_ERROR',
      {
        token: id
      }
    )
  }
})

import t from 'tap'
import { firstFar } from './close.js'
import { Forms } from './forms.js'
import { combineOracle, dispatchOracle } from './oracle-moe.js'
import { expertShapes, lengths } from './shapes.js'
import { tolerances } from './tolerance.js'
import { choices, flavours, floats, skews, stream, whole } from './values.js'

const forms = new Forms(t)

t.test('grid', async (test) => {
  for (const { experts, k } of expertShapes) {
    for (const width of [0, ...lengths]) {
      const label = `${experts} experts, k ${k}, width ${width}`
      const next = stream(label)
      const flavour = flavours[whole(next, 0, 3)]!
      const tokens = whole(next, 0, 6)
      const ids = choices(tokens, k, experts, skews[whole(next, 0, 2)]!, next)
      const { rows } = dispatchOracle(ids, experts)
      const values = floats(tokens * k * width, next, flavour)
      const weights = floats(tokens * k, next, 'normal')
      const start = floats(tokens * width, next, flavour)
      for (const add of [false, true]) {
        const { result } = await forms.sameBits('combine', `${label}, ${flavour}, add ${add}`, {
          request: (memory) => ({
            values: memory.input('values', values),
            ids: memory.input('ids', ids),
            weights: memory.input('weights', weights),
            rows: memory.input('rows', rows),
            k,
            experts,
            width,
            add,
            out: memory.inout('out', start)
          }),
          row: width
        })
        const oracle = combineOracle({ values, weights, rows, k, width, add }, start)
        test.equal(firstFar(result, oracle, tolerances.combine), undefined, `${label}, add ${add}: the oracle`)
      }
    }
  }
})

t.test('the order of choices does not change a bit, because sums run by expert id', async (test) => {
  const next = stream('order')
  const [k, experts, width] = [5, 9, 33]
  const ids = choices(1, k, experts, 'even', next)
  const weights = floats(k, next)
  const values = floats(k * width, next, 'heavy')
  const order = [3, 0, 4, 1, 2]
  const shuffled = {
    ids: Int32Array.from(order, (s) => ids[s]!),
    weights: Float32Array.from(order, (s) => weights[s]!)
  }
  const rows = dispatchOracle(ids, experts).rows
  const common = { values, k, experts, width }
  const first = await forms.sameBits('combine', 'as chosen', { request: () => ({ ...common, ids, weights, rows }) })
  const other = await forms.sameBits('combine', 'shuffled', {
    request: () => ({ ...common, ...shuffled, rows: Uint32Array.from(order, (s) => rows[s]!) })
  })
  test.same(other.result, first.result)
})

t.test('rows and ids that no dispatch gave', async () => {
  const own = (rows: Uint32Array, ids = Int32Array.of(0, 1, 1, 0)) => ({
    request: () => ({
      values: new Float32Array(8),
      ids,
      weights: new Float32Array(4),
      rows,
      k: 2,
      experts: 2,
      width: 2
    })
  })
  await forms.sameError('combine', 'a row too far', own(Uint32Array.of(0, 1, 2, 4)), 'VALIDATION_ERROR')
  await forms.sameError('combine', 'a huge row', own(Uint32Array.of(0, 1, 2, 2 ** 32 - 1)), 'VALIDATION_ERROR')
  for (const id of [-1, 2, 1])
    await forms.sameError(
      'combine',
      `expert ${id}`,
      own(Uint32Array.of(0, 1, 2, 3), Int32Array.of(0, 1, 1, id)),
      'ROUTING_INVALID_EXPERT',
      { token: 1, slot: 1, expertId: id }
    )
})

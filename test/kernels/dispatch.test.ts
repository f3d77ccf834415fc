import t from 'tap'
import { Forms } from './forms.js'
import { dispatchOracle } from './oracle-moe.js'
import { expertShapes, tokenCounts } from './shapes.js'
import { choices, skews, stream } from './values.js'

const forms = new Forms(t)

t.test('grid', async (test) => {
  for (const { experts, k } of expertShapes) {
    for (const tokens of [...tokenCounts, 100]) {
      for (const skew of skews) {
        const label = `${tokens} tokens, ${experts} experts, k ${k}, ${skew}`
        const ids = choices(tokens, k, experts, skew, stream(label))
        const { result } = await forms.sameBits('dispatch', label, {
          request: (memory) => ({
            ids: memory.input('ids', ids),
            k,
            experts,
            offsets: memory.words('offsets', experts + 1),
            slots: memory.words('slots', ids.length),
            rows: memory.words('rows', ids.length)
          })
        })
        test.same(result, dispatchOracle(ids, experts), `${label}: a stable sort`)
      }
    }
  }
})

t.test('ids that no dispatch has', async () => {
  const bad = { negative: -1, 'one too many': 4, least: -(2 ** 31), most: 2 ** 31 - 1, twice: 1 }
  for (const [name, id] of Object.entries(bad)) {
    const ids = Int32Array.of(0, 1, 2, 3, 1, 0)
    ids[5] = id
    const own = { request: () => ({ ids, k: 2, experts: 4 }) }
    await forms.sameError('dispatch', name, own, 'ROUTING_INVALID_EXPERT', { token: 2, slot: 1, expertId: id })
  }
})

t.test('numbers that do not fit', async () => {
  const ids = Int32Array.of(0, 1, 2)
  await forms.sameError('dispatch', 'half a token', { request: () => ({ ids, k: 2, experts: 4 }) }, 'VALIDATION_ERROR')
  for (const k of [0, -1, 1.5, Number.NaN, 257, 2 ** 40])
    await forms.sameError('dispatch', `k ${k}`, { request: () => ({ ids, k, experts: 4 }) }, 'VALIDATION_ERROR')
})

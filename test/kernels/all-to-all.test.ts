import t from 'tap'
import { Forms } from './forms.js'
import { exchangeMisfits, goodDispatch } from './misfits.js'
import { dispatchOracle } from './oracle-moe.js'
import { expertShapes, tokenCounts } from './shapes.js'
import { choices, floats, skews, stream, whole } from './values.js'

const forms = new Forms(t)

/** The rank of each expert: an even split in ascending order, the first ranks one more. */
function rankOf(expert: number, experts: number, ranks: number): number {
  const sizes = Array.from({ length: ranks }, (_, r) => Math.floor(experts / ranks) + (r < experts % ranks ? 1 : 0))
  let rank = 0
  let left = expert
  while (left >= sizes[rank]!) left -= sizes[rank++]!
  return rank
}

t.test('packed by rank, unpacked into slots', async (test) => {
  for (const { experts, k } of expertShapes) {
    for (const tokens of tokenCounts) {
      const label = `${tokens} tokens, ${experts} experts, k ${k}`
      const next = stream(label)
      const ranks = whole(next, 1, experts + 2)
      const width = whole(next, 0, 40)
      const ids = choices(tokens, k, experts, skews[whole(next, 0, 2)]!, next)
      const { offsets, slots } = dispatchOracle(ids, experts)
      const x = floats(tokens * width, next, 'heavy')
      const packed = await forms.sameBits('allToAllPack', `${label}, ${ranks} ranks, width ${width}`, {
        request: (memory) => ({
          x: memory.input('x', x),
          width,
          k,
          offsets: memory.input('offsets', offsets),
          slots: memory.input('slots', slots),
          ranks,
          out: memory.floats('out', ids.length * width),
          rankRows: memory.words('rankRows', ranks)
        }),
        row: width
      })
      const counts = new Uint32Array(ranks)
      for (const id of ids) counts[rankOf(id, experts, ranks)]!++
      test.same(packed.result.rankRows, counts, `${label}: rows of each rank`)
      const wanted = Float32Array.from({ length: ids.length * width }, (_, i) => {
        const slot = slots[Math.floor(i / width)]!
        return x[Math.floor(slot / k) * width + (i % width)]!
      })
      test.same(packed.result.out, wanted, `${label}: each row is its token's`)

      const back = await forms.sameBits('allToAllUnpack', label, {
        request: (memory) => ({
          packed: memory.input('packed', packed.result.out),
          width,
          k,
          offsets: memory.input('offsets', offsets),
          slots: memory.input('slots', slots),
          out: memory.floats('out', ids.length * width)
        }),
        row: width
      })
      const home = Float32Array.from({ length: ids.length * width }, (_, i) => {
        return x[Math.floor(i / width / k) * width + (i % width)]!
      })
      test.same(back.result, home, `${label}: and comes back to its slot`)
    }
  }
})

t.test('offsets and slots that no dispatch gave', async () => {
  for (const [name, part] of Object.entries(exchangeMisfits)) {
    const own = { ...goodDispatch, ...part, width: 2, k: 2 }
    const [x, packed] = [new Float32Array(4), new Float32Array(8)]
    await forms.sameError('allToAllPack', name, { request: () => ({ ...own, x, ranks: 2 }) }, 'VALIDATION_ERROR')
    await forms.sameError('allToAllUnpack', name, { request: () => ({ ...own, packed }) }, 'VALIDATION_ERROR')
  }
})

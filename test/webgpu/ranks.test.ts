/** Experts split between GPUs, or between shares of one: the bits of one rank on the GPU. */
import t from 'tap'
import { type ExpertRank, openBackend, RankGroup, type Segment } from 'tiered-moe/kernels'
import { firstDifference } from '../kernels/memory.js'
import { type LayerShape, makeLayer, makeRanks, plainLayer } from '../ranks/layer.js'
import { openGpu } from './adapter.js'

const gpu = await openGpu(t)
const other = gpu && (await openGpu(t))

if (gpu && other) {
  const cpu = openBackend('cpu')
  t.teardown(() => cpu.dispose())
  const shape: LayerShape = { type: 'Q8_0', experts: 7, k: 3, width: 64, hidden: 32, tokens: [5, 0, 4] }

  t.test('several devices, and several shares of one', async (test) => {
    // one token alone, whose experts get many rows of another rank beside its own
    const crowded: LayerShape = { ...shape, type: 'Q4_0', skew: 'one', tokens: [1, 40, 0] }
    const places: Record<string, ExpertRank['backend'][]> = { 'two devices': [gpu, other], 'shares of one': [gpu] }
    for (const layer of [{ ...shape, activation: 'clamped_swiglu' } as const, crowded]) {
      const { matrices, tokens } = makeLayer(cpu, `gpu ranks ${layer.type}`, layer)
      const plain = await Promise.all(tokens.map((own) => plainLayer(gpu, matrices, layer, own)))
      for (const [name, backends] of Object.entries(places)) {
        const group = new RankGroup({ ...layer, ranks: makeRanks(matrices, layer.experts, 3, backends) })
        const got = await group.exchange(tokens)
        for (const [rank, out] of got.entries()) {
          const different = firstDifference('out', out, plain[rank]!, layer.width)
          test.equal(different, undefined, `${layer.type}, ${name}: rank ${rank}`)
        }
      }
    }
  })

  t.test('matrices that stay on their device', async (test) => {
    const { matrices, tokens } = makeLayer(cpu, 'gpu ranks', shape)
    const backends = [gpu, other, gpu]
    const ranks = makeRanks(matrices, shape.experts, 3, backends)
    const expected = await new RankGroup({ ...shape, ranks }).exchange(tokens)
    const held = await Promise.all(
      ranks.map(async ({ backend, matrices: own }, rank): Promise<ExpertRank> => {
        const parts = Object.entries(own!).map(async ([name, matrix]) => {
          const data = await backends[rank]!.upload(matrix.data as Uint8Array)
          return [name, { ...matrix, data }]
        })
        return { backend, matrices: Object.fromEntries(await Promise.all(parts)) }
      })
    )
    const group = new RankGroup({ ...shape, ranks: held })
    for (let exchange = 0; exchange < 2; exchange++) test.same(await group.exchange(tokens), expected)
    const wrong = held.map((rank, i) => ({ ...rank, backend: i === 1 ? cpu : rank.backend }))
    await test.rejects(new RankGroup({ ...shape, ranks: wrong }).exchange(tokens), { code: 'VALIDATION_ERROR' })
  })

  t.test('a segment that changes between two devices', async (test) => {
    const { matrices, tokens } = makeLayer(cpu, 'gpu ranks', shape)
    const ranks = makeRanks(matrices, shape.experts, 3, [gpu, other])
    for (const kind of ['states', 'results'] as const) {
      const carry = (segment: Segment) => {
        if (segment.kind !== kind || segment.source !== 2 || segment.destination !== 2) return segment
        const rows = segment.rows.slice()
        new Uint8Array(rows.buffer)[5]! ^= 64
        return { ...segment, rows }
      }
      const details = { kind, source: 2, destination: 2, field: 'checksum' }
      const exchange = new RankGroup({ ...shape, ranks, carry }).exchange(tokens)
      await test.rejects(exchange, { code: 'DISPATCH_SEGMENT_CORRUPTED', details })
    }
  })
}

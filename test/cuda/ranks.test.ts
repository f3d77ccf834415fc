/** Experts split between ranks on CUDA, several GPUs and shares of one: the bits of one rank on the CPU. */
import t, { type Test } from 'tap'
import { type ExpertRank, openBackend, RankGroup, type Segment } from 'tiered-moe/kernels'
import { firstDifference } from '../kernels/memory.js'
import { type LayerShape, makeLayer, makeRanks, plainLayer } from '../ranks/layer.js'
import { openCudaKernels } from './engines.js'

// Of GPUs in an emulation there are as many as asked for.
process.env.TIERED_MOE_EMULATED_DEVICES = '2'
const cuda = await openCudaKernels(t)

if (cuda) {
  const cpu = openBackend('cpu')
  t.teardown(() => cpu.dispose())
  const layers: LayerShape[] = [
    { type: 'Q8_0', experts: 7, k: 3, width: 64, hidden: 32, activation: 'clamped_swiglu', tokens: [5, 0, 4] },
    // One token alone, whose experts get many rows of another rank beside its own.
    { type: 'Q4_0', experts: 7, k: 3, width: 64, hidden: 32, skew: 'one', tokens: [1, 40, 0] }
  ]

  /** The layer on ranks that take turns on these backends. */
  async function check(test: Test, backends: ExpertRank['backend'][]) {
    for (const layer of layers) {
      const { matrices, tokens } = makeLayer(cpu, `cuda ranks ${layer.type}`, layer)
      const group = new RankGroup({ ...layer, ranks: makeRanks(matrices, layer.experts, 3, backends) })
      for (const [rank, out] of (await group.exchange(tokens)).entries()) {
        const different = firstDifference(
          'out',
          out,
          await plainLayer(cpu, matrices, layer, tokens[rank]!),
          layer.width
        )
        test.equal(different, undefined, `${layer.type}: rank ${rank}`)
      }
    }
  }

  t.test('shares of one device', (test) => check(test, [cuda]))
  t.test('a device beside the CPU', (test) => check(test, [cuda, cpu]))

  t.test('several devices', async (test) => {
    const other = await openBackend('cuda', { device: 1 }).catch((error) => error)
    if (cuda.device !== 'host emulation' && other.code === 'CUDA_DEVICE_FAILED') return
    await check(test, [cuda, other])
    other.dispose()
  })

  t.test('devices that are not there', async (test) => {
    await test.rejects(openBackend('cuda', { device: 99 }), { code: 'CUDA_DEVICE_FAILED', details: { device: 99 } })
    for (const device of [-1, 0.5, '0', null] as number[])
      await test.rejects(openBackend('cuda', { device }), { code: 'VALIDATION_ERROR' }, String(device))
    await test.rejects(openBackend('cuda', null as never), { code: 'VALIDATION_ERROR' })
  })

  t.test('a segment that changes on its way', async (test) => {
    const layer = layers[0]!
    const { matrices, tokens } = makeLayer(cpu, 'cuda ranks', layer)
    const carry = (segment: Segment) => {
      if (segment.kind !== 'results' || segment.source !== 2 || segment.destination !== 0) return segment
      const rows = segment.rows.slice()
      new Uint8Array(rows.buffer)[5]! ^= 64
      return { ...segment, rows }
    }
    const group = new RankGroup({ ...layer, ranks: makeRanks(matrices, layer.experts, 3, [cuda]), carry })
    const details = { kind: 'results', source: 2, destination: 0, field: 'checksum' }
    await test.rejects(group.exchange(tokens), { code: 'DISPATCH_SEGMENT_CORRUPTED', details })
  })
}

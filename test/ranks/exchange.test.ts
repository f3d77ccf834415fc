/** Experts split between ranks of one process: the bits of one rank, whatever the split, the arrival or the tokens. */
import t from 'tap'
import { isEngineError } from 'tiered-moe'
import { openBackend, RankGroup, type RankTokens, type Segment } from 'tiered-moe/kernels'
import { firstDifference } from '../kernels/memory.js'
import { skews, stream, whole } from '../kernels/values.js'
import { type LayerShape, makeLayer, makeRanks, plainLayer } from './layer.js'

const cpu = openBackend('cpu', { threads: 2 })
const others = [openBackend('cpu', { isa: 'scalar' }), openBackend('cpu')]
t.teardown(() => {
  for (const backend of [cpu, ...others]) backend.dispose()
})

const shapes: Omit<LayerShape, 'tokens' | 'skew'>[] = [
  { type: 'F32', experts: 3, k: 2, width: 5, hidden: 7 },
  { type: 'Q8_0', experts: 8, k: 2, width: 32, hidden: 64 },
  { type: 'Q4_0', experts: 13, k: 5, width: 64, hidden: 32 },
  { type: 'F32', experts: 5, k: 2, width: 6, hidden: 9, activation: 'clamped_swiglu' }
]

t.test('the bits of one rank with all experts', async (test) => {
  for (const shape of shapes) {
    for (const ranks of [1, 2, 3, 4, shape.experts + 2]) {
      for (const skew of skews) {
        const label = `${shape.type}, ${shape.experts} experts, ${ranks} ranks, ${skew}`
        const next = stream(`tokens of ${label}`)
        const counts = Array.from({ length: ranks }, () => whole(next, 0, 5))
        const own = { ...shape, skew, tokens: counts }
        const { matrices, tokens } = makeLayer(cpu, label, own)
        const group = new RankGroup({ ...shape, ranks: makeRanks(matrices, shape.experts, ranks, [cpu, ...others]) })
        const got = await group.exchange(tokens)
        for (const [rank, part] of tokens.entries()) {
          const wanted = await plainLayer(cpu, matrices, own, part)
          test.equal(firstDifference('out', got[rank]!, wanted, shape.width), undefined, `${label}: rank ${rank}`)
        }
      }
    }
  }
})

const shape: LayerShape = { type: 'Q8_0', experts: 6, k: 3, width: 32, hidden: 32, tokens: [4, 0, 3] }
const { matrices, tokens } = makeLayer(cpu, 'one layer', shape)
const ranks = makeRanks(matrices, shape.experts, 3, [cpu])

t.test('added to what the outputs hold', async (test) => {
  const filled = () => tokens.map((own) => ({ ...own, add: true, out: own.x.slice() }))
  const [ranked, plain] = [filled(), filled()]
  const got = await new RankGroup({ ...shape, ranks }).exchange(ranked)
  for (const [rank, own] of plain.entries()) {
    test.equal(got[rank], ranked[rank]!.out, 'the array that was given')
    test.same(got[rank], await plainLayer(cpu, matrices, shape, own))
  }
})

t.test('segments carry their rows in order, and may arrive in any', async (test) => {
  const seen: Segment[] = []
  const waiting: (() => void)[] = []
  const next = stream('arrivals')
  const carry = (segment: Segment) => {
    seen.push(segment)
    // none arrives before all of its kind are under way; then in a random order
    return new Promise<Segment>((resolve) => {
      waiting.push(() => resolve(segment))
      if (waiting.length < 9) return
      for (const go of waiting.splice(0).sort(() => next() - 0.5)) go()
    })
  }
  const group = new RankGroup({ ...shape, ranks, carry })
  const plain = await new RankGroup({ ...shape, ranks }).exchange(tokens)
  for (let exchange = 0; exchange < 3; exchange++)
    test.same(await group.exchange(tokens), plain, `exchange ${exchange}`)
  test.equal(seen.length, 3 * 2 * 9, 'one segment from every rank to every rank, both ways')
  for (const { kind, source, destination, slots, experts, weights, rows } of seen) {
    const own = tokens[kind === 'states' ? source : destination]!
    const owner = kind === 'states' ? destination : source
    const { first, count } = group.shares[owner]!
    for (const [row, slot] of slots.entries()) {
      test.equal(experts[row], own.ids[slot], 'the expert of its slot')
      test.equal(weights[row], own.weights[slot], 'the weight of its slot')
      test.ok(experts[row]! >= first && experts[row]! < first + count, 'an expert of the rank')
      if (row > 0) test.ok(experts[row]! > experts[row - 1]! || slot > slots[row - 1]!, 'by expert, then by slot')
      const token = Math.floor(slot / shape.k) * shape.width
      if (kind === 'states')
        test.same(rows.subarray(row * shape.width, (row + 1) * shape.width), own.x.subarray(token, token + shape.width))
    }
  }
})

t.test('a segment that arrives as another', async (test) => {
  const flipped = (array: Uint32Array | Int32Array | Float32Array) => {
    const copy = array.slice()
    new Uint8Array(copy.buffer)[copy.byteLength - 1]! ^= 1
    return copy
  }
  const faults: Record<string, { field: string; change: (segment: Segment) => Partial<Segment> }> = {
    'a bit of a row': { field: 'checksum', change: ({ rows }) => ({ rows: flipped(rows) as Float32Array }) },
    'a slot': { field: 'checksum', change: ({ slots }) => ({ slots: flipped(slots) as Uint32Array }) },
    'an expert id': { field: 'checksum', change: ({ experts }) => ({ experts: flipped(experts) as Int32Array }) },
    'a weight': { field: 'checksum', change: ({ weights }) => ({ weights: flipped(weights) as Float32Array }) },
    'the checksum': { field: 'checksum', change: ({ checksum }) => ({ checksum: checksum ^ 1 }) },
    'rows cut short': { field: 'number of floats', change: ({ rows }) => ({ rows: rows.subarray(1) }) },
    'ids cut short': { field: 'number of expert ids', change: ({ experts }) => ({ experts: experts.subarray(1) }) },
    'weights cut short': { field: 'number of weights', change: ({ weights }) => ({ weights: weights.subarray(1) }) },
    'another source': { field: 'source', change: () => ({ source: 1 }) },
    'another destination': { field: 'destination', change: () => ({ destination: 1 }) },
    'another k': { field: 'k', change: ({ k }) => ({ k: k + 1 }) },
    'another width': { field: 'width', change: ({ width }) => ({ width: width + 1 }) },
    'no slots': { field: 'slots', change: () => ({ slots: undefined as unknown as Uint32Array }) },
    'rows of another type': { field: 'rows', change: ({ rows }) => ({ rows: [...rows] as unknown as Float32Array }) },
    'an earlier exchange': { field: 'exchange', change: ({ exchange }) => ({ exchange: exchange - 1 }) },
    'the other way': { field: 'kind', change: ({ kind }) => ({ kind: kind === 'states' ? 'results' : 'states' }) }
  }
  const plain = await new RankGroup({ ...shape, ranks }).exchange(tokens)
  for (const kind of ['states', 'results'] as const) {
    for (const [name, { field, change }] of Object.entries(faults)) {
      const [source, destination] = kind === 'states' ? [0, 2] : [2, 0]
      let faulty = true
      const carry = (segment: Segment) =>
        faulty && segment.kind === kind && segment.source === source && segment.destination === destination
          ? { ...segment, ...change(segment) }
          : segment
      const group = new RankGroup({ ...shape, ranks, carry })
      await test.rejects(
        group.exchange(tokens),
        { code: 'DISPATCH_SEGMENT_CORRUPTED', details: { field, source, destination, kind } },
        `${kind}: ${name}`
      )
      faulty = false
      test.same(await group.exchange(tokens), plain, 'the next exchange is sound')
    }
  }
})

t.test('sound results of other rows', async (test) => {
  // resealed by a rank that mixed up what it was asked: the checksum is right, the slots are not those that were sent
  let other: Segment | undefined
  const swap = (segment: Segment) => {
    if (segment.kind !== 'states' || segment.source !== 0 || segment.destination !== 2) return segment
    other ??= segment
    return other
  }
  const rest = makeLayer(cpu, 'another layer', shape).tokens
  const first = new RankGroup({ ...shape, ranks, carry: swap })
  const second = new RankGroup({ ...shape, ranks, carry: swap })
  await first.exchange(tokens)
  // both are the exchange 0 of their group: only the rows tell
  await test.rejects(second.exchange(rest), { code: 'DISPATCH_SEGMENT_CORRUPTED', details: { kind: 'results' } })
})

t.test('what does not fit', async (test) => {
  const group = new RankGroup({ ...shape, ranks })
  const [first, ...more] = tokens as [RankTokens, ...RankTokens[]]
  const bad: Record<string, RankTokens[]> = {
    'too few ranks': [first],
    'states of another width': [{ ...first, x: first.x.subarray(1) }, ...more],
    'weights cut short': [{ ...first, weights: first.weights.subarray(1) }, ...more],
    'no array': undefined as unknown as RankTokens[],
    'a rank without tokens': [undefined as unknown as RankTokens, ...more],
    'ids of another type': [{ ...first, ids: [...first.ids] as unknown as Int32Array }, ...more]
  }
  for (const [name, own] of Object.entries(bad))
    await test.rejects(group.exchange(own), { code: 'VALIDATION_ERROR' }, name)
  const ids = first.ids.slice()
  ids[4] = 6
  const details = { token: 1, slot: 1, expertId: 6 }
  await test.rejects(group.exchange([{ ...first, ids }, ...more]), { code: 'ROUTING_INVALID_EXPERT', details })
  const making = (make: () => unknown, name: string) => {
    try {
      make()
      test.fail(`${name}: no error`)
    } catch (error) {
      test.equal(isEngineError(error) && error.code, 'VALIDATION_ERROR', name)
    }
  }
  const lost = new RankGroup({ ...shape, ranks, carry: () => undefined as unknown as Segment })
  await test.rejects(lost.exchange(tokens), { code: 'DISPATCH_SEGMENT_CORRUPTED' }, 'nothing arrives')
  making(() => new RankGroup(null as never), 'no options')
  making(() => new RankGroup({ ...shape, k: 0.5, ranks }), 'half an expert')
  making(() => new RankGroup({ ...shape, ranks: undefined as never }), 'ranks left out')
  making(() => new RankGroup({ ...shape, ranks: [] }), 'no ranks')
  making(() => new RankGroup({ ...shape, experts: 0, ranks }), 'no experts')
  making(() => new RankGroup({ ...shape, ranks: [{ backend: cpu }] }), 'a rank without its matrices')
  const whole = ranks.map((rank) => ({ ...rank, matrices }))
  making(() => new RankGroup({ ...shape, ranks: whole }), 'ranks with the matrices of all experts')
  const lacking = ranks.map(({ backend, matrices: own }) => ({
    backend,
    matrices: { ...own!, up: undefined as never }
  }))
  making(() => new RankGroup({ ...shape, ranks: lacking }), 'ranks without a matrix')
  making(() => new RankGroup({ ...shape, ranks, activation: 'gelu' as never }), 'an activation that there is not')
  const biases = { up: new Float32Array(2 * shape.hidden) }
  for (const own of [0, 1]) {
    const some = ranks.map((rank, i) => (i === own ? { ...rank, biases } : rank))
    making(() => new RankGroup({ ...shape, ranks: some }), `biases of rank ${own} alone`)
  }
  const short = ranks.map((rank) => ({ ...rank, biases: { up: new Float32Array(shape.hidden) } }))
  await test.rejects(
    new RankGroup({ ...shape, ranks: short }).exchange(tokens),
    { code: 'VALIDATION_ERROR' },
    'too few biases'
  )
})

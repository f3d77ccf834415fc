/** Rows between token order and expert order on the GPU: integers and moved bits equal to the CPU's, sums within tolerance. */
import t from 'tap'
import { openBackend } from 'tiered-moe/kernels'
import { firstFar } from '../kernels/close.js'
import { firstDifference } from '../kernels/memory.js'
import { exchangeMisfits, goodDispatch } from '../kernels/misfits.js'
import { combineOracle } from '../kernels/oracle-moe.js'
import { expertShapes, tokenCounts } from '../kernels/shapes.js'
import { tolerances } from '../kernels/tolerance.js'
import { choices, flavours, floats, skews, stream, whole } from '../kernels/values.js'
import { openGpu } from './adapter.js'

const gpu = await openGpu(t)

if (gpu) {
  const cpu = openBackend('cpu')
  t.teardown(() => cpu.dispose())

  const shapes = [...expertShapes, { experts: 1500, k: 3 }]

  t.test('dispatch', async (test) => {
    for (const { experts, k } of shapes) {
      for (const tokens of [...tokenCounts, 100]) {
        for (const skew of skews) {
          const label = `${tokens} tokens, ${experts} experts, k ${k}, ${skew}`
          const ids = choices(tokens, k, experts, skew, stream(label))
          test.same(await gpu.dispatch({ ids, k, experts }), cpu.sync.dispatch({ ids, k, experts }), label)
        }
      }
    }
  })

  t.test('combine', async (test) => {
    for (const { experts, k } of shapes) {
      for (const width of [0, 1, 15, 64, 257]) {
        const label = `${experts} experts, k ${k}, width ${width}`
        const next = stream(label)
        const flavour = flavours[whole(next, 0, 3)]!
        const tokens = whole(next, 0, 6)
        const ids = choices(tokens, k, experts, skews[whole(next, 0, 2)]!, next)
        const { rows } = cpu.sync.dispatch({ ids, k, experts })
        const values = floats(tokens * k * width, next, flavour)
        const weights = floats(tokens * k, next, 'normal')
        const start = floats(tokens * width, next, flavour)
        for (const add of [false, true]) {
          const request = { values, ids, weights, rows, k, experts, width, add }
          const got = await gpu.combine({ ...request, out: start.slice() })
          const oracle = combineOracle(request, start)
          test.equal(firstFar(got, oracle, tolerances.combine), undefined, `${label}, ${flavour}, add ${add}`)
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
    const { rows } = cpu.sync.dispatch({ ids, k, experts })
    const order = [3, 0, 4, 1, 2]
    const first = await gpu.combine({ values, ids, weights, rows, k, experts, width })
    const other = await gpu.combine({
      values,
      ids: Int32Array.from(order, (s) => ids[s]!),
      weights: Float32Array.from(order, (s) => weights[s]!),
      rows: Uint32Array.from(order, (s) => rows[s]!),
      k,
      experts,
      width
    })
    test.same(other, first)
  })

  t.test('packed by rank, unpacked into slots', async (test) => {
    for (const { experts, k } of shapes) {
      for (const tokens of [0, 1, 5, 17]) {
        const label = `${tokens} tokens, ${experts} experts, k ${k}`
        const next = stream(label)
        const ranks = whole(next, 1, experts + 2)
        const width = whole(next, 0, 1) * whole(next, 1, 300)
        const ids = choices(tokens, k, experts, skews[whole(next, 0, 2)]!, next)
        const { offsets, slots } = cpu.sync.dispatch({ ids, k, experts })
        const x = floats(tokens * width, next, 'tiny')
        const request = { x, width, k, offsets, slots, ranks }
        const expected = cpu.sync.allToAllPack(request)
        const got = await gpu.allToAllPack(request)
        test.same(got.rankRows, expected.rankRows, `${label}: rows of each rank`)
        test.equal(firstDifference('out', got.out, expected.out, width), undefined, `${label}: packed`)
        const back = { packed: got.out, width, k, offsets, slots }
        const home = await gpu.allToAllUnpack(back)
        test.equal(firstDifference('out', home, cpu.sync.allToAllUnpack(back), width), undefined, `${label}: unpacked`)
      }
    }
  })

  t.test('arrays that stay on the device', async (test) => {
    const next = stream('device')
    const [tokens, k, experts, width] = [9, 3, 8, 40]
    const host = choices(tokens, k, experts, 'even', next)
    const values = floats(tokens * k * width, next)
    const weights = floats(tokens * k, next)
    const start = floats(tokens * width, next)
    const expected = await gpu.combine({
      ...{ values, weights, k, experts, width, ids: host, add: true, out: start.slice() },
      rows: cpu.sync.dispatch({ ids: host, k, experts }).rows
    })
    const ids = await gpu.upload(host)
    const [offsets, slots, rows] = [
      await gpu.allocate('u32', experts + 1),
      await gpu.allocate('u32', host.length),
      await gpu.allocate('u32', host.length)
    ]
    const out = await gpu.upload(start)
    const dispatched = gpu.dispatch({ ids, k, experts, offsets, slots, rows })
    await gpu.combine({ values, ids, weights, rows, k, experts, width, add: true, out })
    test.same(await out.read(), expected)
    test.equal((await dispatched).slots, slots)
  })

  t.test('ids, rows, offsets and slots that no dispatch gave', async (test) => {
    const bad = { negative: -1, 'one too many': 4, least: -(2 ** 31), most: 2 ** 31 - 1, twice: 1 }
    for (const [name, id] of Object.entries(bad)) {
      const ids = Int32Array.of(0, 1, 2, 3, 1, id)
      const details = { token: 2, slot: 1, expertId: id }
      for (const given of [ids, await gpu.upload(ids)]) {
        await test.rejects(
          gpu.dispatch({ ids: given, k: 2, experts: 4 }),
          { code: 'ROUTING_INVALID_EXPERT', details },
          name
        )
        const rest = { values: new Float32Array(12), weights: new Float32Array(6), rows: new Uint32Array(6) }
        const combined = gpu.combine({ ids: given, ...rest, k: 2, experts: 4, width: 2 })
        await test.rejects(combined, { code: 'ROUTING_INVALID_EXPERT', details }, name)
      }
    }
    for (const k of [0, -1, 1.5, Number.NaN, 257, 4])
      await test.rejects(
        gpu.dispatch({ ids: new Int32Array(6), k, experts: 4 }),
        { code: 'VALIDATION_ERROR' },
        `k ${k}`
      )

    const own = { values: new Float32Array(8), ids: Int32Array.of(0, 1, 1, 0), weights: new Float32Array(4) }
    for (const row of [4, 2 ** 32 - 1]) {
      const rows = Uint32Array.of(0, 1, 2, row)
      await test.rejects(
        gpu.combine({ ...own, rows, k: 2, experts: 2, width: 2 }),
        { code: 'VALIDATION_ERROR' },
        `row ${row}`
      )
    }

    for (const [name, part] of Object.entries(exchangeMisfits)) {
      const rest = { ...goodDispatch, ...part, width: 2, k: 2 }
      const packed = gpu.allToAllPack({ ...rest, x: new Float32Array(4), ranks: 2 })
      await test.rejects(packed, { code: 'VALIDATION_ERROR' }, `pack: ${name}`)
      const unpacked = gpu.allToAllUnpack({ ...rest, packed: new Float32Array(8) })
      await test.rejects(unpacked, { code: 'VALIDATION_ERROR' }, `unpack: ${name}`)
    }
  })
}

/** Attention of one step over several sequences, whose pages lie anywhere: each row has the bits that it has alone. */
import t from 'tap'
import { kvCacheBytes } from 'tiered-moe/kernels'
import { GpuDevice } from '../../lib/backends/webgpu/device.js'
import { attentionLaunches } from '../../lib/backends/webgpu/launches/attention.js'
import { onNode } from '../../lib/backends/webgpu/node-provider.js'
import { floats, stream } from '../kernels/values.js'
import { openGpu } from './adapter.js'

const gpu = await openGpu(t)

const shape = { heads: 4, kvHeads: 4, headDim: 64 }
const width = 4 * 64
const pageBytes = kvCacheBytes({ positions: 64, ...shape })

/** What a sequence holds, what the step brings, and the pages that it has. */
const sequences = [
  { held: 5, count: 3, pages: [4] },
  { held: 70, count: 1, pages: [0, 3] },
  { held: 0, count: 6, pages: [2] },
  { held: 300, count: 2, pages: [9, 1, 8, 5, 7] }
]

if (gpu) {
  t.test('four sequences', async (test) => {
    const device = await GpuDevice.open(onNode)
    test.teardown(() => device.dispose())
    const cache = new Uint8Array(10 * pageBytes)
    const [rows, pages]: [number[], number[]] = [[], []]
    const [q, k, v, expected]: [number[], number[], number[], number[]] = [[], [], [], []]
    for (const [i, { held, count, pages: own }] of sequences.entries()) {
      const next = stream(`sequence ${i}`)
      const tokens = (n: number) => ({
        q: floats(n * width, next),
        k: floats(n * width, next),
        v: floats(n * width, next)
      })
      const alone = new Uint8Array(kvCacheBytes({ positions: held + count, ...shape }))
      await gpu.attention({ ...shape, ...tokens(held), cache: alone, start: 0 })
      for (const [at, page] of own.entries())
        cache.set(alone.subarray(at * pageBytes, (at + 1) * pageBytes), page * pageBytes)
      const step = tokens(count)
      expected.push(...(await gpu.attention({ ...shape, ...step, cache: alone, start: held })))
      for (let row = 0; row < count; row++) rows.push(held + row, pages.length)
      pages.push(...own)
      q.push(...step.q)
      k.push(...step.k)
      v.push(...step.v)
    }

    const count = rows.length / 2
    for (const [together, positions] of [
      [true, 302],
      [false, 1024]
    ] as const) {
      const launches = attentionLaunches(
        { rows: count, ...shape, valueDim: 64, scale: 0.125, kvType: 'f16', positions, together },
        device.facts
      )
      const upload = async (data: Float32Array | Uint32Array | Uint8Array) => {
        const buffer = await device.memory.allocate(data.byteLength, 'a buffer of the test')
        device.write(buffer, 0, data)
        return { buffer }
      }
      const [bq, bk, bv] = await Promise.all([q, k, v].map((x) => upload(Float32Array.from(x))))
      const [places, table] = await Promise.all([rows, pages].map((x) => upload(Uint32Array.from(x))))
      const [held, out, partials, status] = await Promise.all([
        upload(cache),
        upload(new Float32Array(count * width)),
        upload(new Uint8Array(launches.scratchBytes)),
        upload(new Uint32Array(64).fill(0xffffffff))
      ])
      const bound = [await device.bind(launches.append, [bk!, bv!, places!, table!, held!, status!])]
      for (const { attend, merge } of launches.parts) {
        bound.push(await device.bind(attend, [bq!, places!, table!, held!, merge ? partials! : out!, status!]))
        if (merge) bound.push(await device.bind(merge, [places!, partials!, out!]))
      }
      device.submit((commands) => {
        for (const one of bound) commands.run(one)
      })
      const got = new Float32Array(await device.read(out!))
      test.same(got, Float32Array.from(expected), `rows ${together ? 'together' : 'apart'}`)
      test.equal(new Uint32Array(await device.read(status!))[0], 0xffffffff)
    }
  })
}

/** Launches that do the work of several: the same bits as these one after another. And what of a plan they take. */
import t from 'tap'
import { GpuDevice } from '../../lib/backends/webgpu/device.js'
import { attentionLaunches } from '../../lib/backends/webgpu/launches/attention.js'
import { dispatchLaunch } from '../../lib/backends/webgpu/launches/dispatch.js'
import type { ExpertShape } from '../../lib/backends/webgpu/launches/expert-matmul.js'
import { expertTiles, expertTilesLaunch, tilesBytes } from '../../lib/backends/webgpu/launches/expert-matmul.js'
import { headsLaunch } from '../../lib/backends/webgpu/launches/heads.js'
import type { Launch } from '../../lib/backends/webgpu/launches/launch.js'
import { quantiseLaunch } from '../../lib/backends/webgpu/launches/quantise.js'
import { rmsNormLaunch } from '../../lib/backends/webgpu/launches/rms-norm.js'
import { ropeLaunch } from '../../lib/backends/webgpu/launches/rope.js'
import { headsWidth, stackedWeights, stepOps } from '../../lib/backends/webgpu/model/step-ops.js'
import { onNode } from '../../lib/backends/webgpu/node-provider.js'
import { readModel } from '../../lib/model/index.js'
import { type MoeModelOptions, moeModel } from '../fixtures/moe-model.js'
import { floats, stream } from '../kernels/values.js'
import { openGpu } from './adapter.js'

t.test('operations of a step', async (t) => {
  const models: Record<string, MoeModelOptions> = {
    olmoe: {},
    qwen3moe: { architecture: 'qwen3moe', headDim: 32 },
    mixtral: { architecture: 'llama', kvHeads: 2 },
    hierarchical: { hser: { tiers: { hot: [2, 2], cold: [2] }, k: [1, 1, 2] } }
  }
  for (const [name, options] of Object.entries(models)) {
    const { plan } = readModel(moeModel({ layers: 3, ...options }).file)
    const ops = stepOps(plan)
    const heads = ops.flatMap(({ op, layer }) => (op.op === 'heads' ? [{ ...op, layer }] : []))
    t.same(
      heads.map(({ layer }) => layer),
      [0, 1, 2],
      `${name}: one for each attention`
    )
    t.notOk(
      ops.some(({ op }) => op.op === 'rope' || op.op === 'attention'),
      `${name}: nothing is left over`
    )
    const { q = 0, k = 0, v = 0 } = plan.buffers
    t.same(heads[0]?.place, { k: q, v: q + k, stride: q + k + v })
    t.equal(headsWidth(plan), q + k + v)
    t.equal(heads[0]?.norm?.of, { olmoe: 'row', qwen3moe: 'head', hierarchical: 'row' }[name])
    t.same(stackedWeights(plan)[1], ['blk.1.attn_q.weight', 'blk.1.attn_k.weight', 'blk.1.attn_v.weight'])

    // Whatever else reads the keys needs them where the plan says.
    const read = { ...plan, ops: [...plan.ops, { op: 'logits', in: 'k', weight: 'output.weight' } as const] }
    t.notOk(
      stepOps(read).some(({ op }) => op.op === 'heads'),
      `${name}: not where its keys are read by another`
    )
    t.equal(stepOps(read).length, read.ops.length)
    const turned = plan.ops.map((op) => (op.op === 'rope' && op.buffer === 'k' ? { ...op, base: op.base + 1 } : op))
    t.equal(headsWidth({ ...plan, ops: turned }), 0, `${name}: not where queries and keys are turned otherwise`)
    const behind = plan.ops.map((op) => (op.op === 'rope' ? { ...op, rotaryDim: op.rotaryDim / 2, offset: 4 } : op))
    t.equal(headsWidth({ ...plan, ops: behind }), 0, `${name}: not where a part of a head stays before the rotation`)
  }
})

type Data = Float32Array | Uint32Array | Int32Array

class Bench {
  constructor(readonly device: GpuDevice) {}

  async upload(data: Data): Promise<GPUBufferBinding> {
    const buffer = await this.device.memory.allocate(data.byteLength, 'a buffer of the test')
    this.device.write(buffer, 0, data)
    return { buffer, size: data.byteLength }
  }

  async run(launches: readonly (readonly [Launch, readonly GPUBufferBinding[]])[]): Promise<void> {
    const bound = await this.device.bindAll(launches.map(([launch, buffers]) => ({ launch, buffers })))
    this.device.submit((commands) => {
      for (const one of bound) commands.run(one)
    })
    await this.device.finished()
    const held = this.device.memory.buffers
    for (const one of [...bound, ...bound]) one.dispose()
    t.equal(this.device.memory.buffers, held - 1, 'launches that were bound together have one buffer of params')
  }

  async words(from: GPUBufferBinding): Promise<Uint32Array> {
    return new Uint32Array(await this.device.read(from))
  }
}

const status = () => new Uint32Array(64).fill(0xffffffff)

const gpu = await openGpu(t)
if (gpu) {
  const device = await GpuDevice.open(onNode)
  t.teardown(() => device.dispose())
  const bench = new Bench(device)

  t.test('queries, keys and values', async (t) => {
    const cases = [
      { of: 'row', pairs: 'neox', kvType: 'f16', rotaryDim: 16, places: [4, 71, 0], straight: true },
      { of: 'head', pairs: 'neox', kvType: 'f32', rotaryDim: 8, places: [5, 6, 127], straight: true },
      { of: undefined, pairs: 'interleaved', kvType: 'f16', rotaryDim: 16, places: [3, 4, 5], straight: false }
    ] as const
    const [rows, heads, kvHeads, headDim, valueDim] = [3, 4, 2, 16, 12]
    const [q, k, v] = [heads * headDim, kvHeads * headDim, kvHeads * valueDim]
    const stride = q + k + v
    for (const { of, pairs, kvType, rotaryDim, places, straight } of cases) {
      const next = stream(`${of} ${pairs}`)
      const x = floats(rows * stride, next)
      const columns = (first: number, count: number) =>
        Float32Array.from({ length: rows * count }, (_, i) => x[Math.floor(i / count) * stride + first + (i % count)]!)
      const table = await bench.upload(floats(rows * rotaryDim, next))
      const counts = of === 'row' ? [q, k] : [headDim, headDim]
      const weights = await Promise.all(counts.map((n) => bench.upload(floats(n, next))))
      // A sequence for each row with two pages, or one sequence.
      const entry = (row: number) => (straight ? 2 * row : 0)
      const placed = await bench.upload(Uint32Array.from(places.flatMap((place, row) => [place, entry(row)])))
      const paged = await bench.upload(Uint32Array.of(3, 0, 5, 1, 4, 2))
      const before = floats(6 * 64 * (k + v), stream('cache'))

      const shape = { rows, heads, kvHeads, headDim, valueDim, scale: 1, kvType, positions: 128, together: !straight }
      const [queries, keys, values, held, said] = [
        await bench.upload(columns(0, q)),
        await bench.upload(columns(q, k)),
        await bench.upload(columns(q + k, v)),
        await bench.upload(before),
        await bench.upload(status())
      ]
      const { facts } = device
      const norm = (n: number, width: number) => rmsNormLaunch({ rows, width, n, epsilon: 1e-5, inPlace: true }, facts)
      const rope = (count: number) => ropeLaunch({ rows, heads: count, headDim, rotaryDim, pairs }, facts)
      const norms = [
        [norm(counts[0]!, q), [queries, weights[0]!, said]],
        [norm(counts[1]!, k), [keys, weights[1]!, said]]
      ] as const
      await bench.run([
        ...(of ? norms : []),
        [rope(heads), [queries, table]],
        [rope(kvHeads), [keys, table]],
        [attentionLaunches(shape, facts).append, [keys, values, placed, paged, held, said]]
      ])

      const [given, gotQueries, gotKeys, gotHeld, gotSaid] = [
        await bench.upload(x),
        await bench.upload(new Float32Array(rows * q)),
        await bench.upload(new Float32Array(rows * k)),
        await bench.upload(before),
        await bench.upload(status())
      ]
      const place = { k: q, v: q + k, stride }
      const launch = headsLaunch(
        {
          rows,
          heads,
          kvHeads,
          headDim,
          valueDim,
          place,
          norm: of && { of, epsilon: 1e-5 },
          rotaryDim,
          pairs,
          cache: straight ? kvType : undefined
        },
        facts
      )
      const out = straight ? [placed, paged, gotHeld] : [gotKeys]
      await bench.run([
        [launch, [given, table, gotQueries, gotSaid, ...out, ...(of ? weights : [])]],
        ...(straight
          ? []
          : ([
              [
                attentionLaunches({ ...shape, values: { stride, offset: place.v } }, facts).append,
                [gotKeys, given, placed, paged, gotHeld, gotSaid]
              ]
            ] as const))
      ])
      const label = `${of} ${pairs} ${kvType}`
      t.same(await bench.words(gotQueries), await bench.words(queries), `${label}: queries`)
      t.same(await bench.words(gotHeld), await bench.words(held), `${label}: the cache`)
      t.notSame(await bench.words(held), new Uint32Array(before.buffer))
      if (!straight) t.same(await bench.words(gotKeys), await bench.words(keys), `${label}: keys`)
      t.equal((await bench.words(gotSaid))[0], 0xffffffff)

      // What is not finite is said of its row.
      x[stride + q + k + 1] = Number.NaN
      device.write(given.buffer, 0, x)
      if (straight) {
        await bench.run([[launch, [given, table, gotQueries, gotSaid, ...out, ...(of ? weights : [])]]])
        t.equal((await bench.words(gotSaid))[0], 1, `${label}: a value of row 1`)
      }
    }
  })

  t.test('a norm and its quantised rows', async (t) => {
    const [rows, width] = [3, 96]
    const next = stream('norm')
    const x = await bench.upload(floats(rows * width, next))
    const weight = await bench.upload(floats(width, next))
    const make = async () => ({
      out: await bench.upload(new Float32Array(rows * width)),
      blocks: await bench.upload(new Uint32Array(rows * (width / 32) * 12)),
      said: await bench.upload(status())
    })
    const [a, b] = [await make(), await make()]
    const shape = { rows, width, epsilon: 1e-6 }
    await bench.run([
      [rmsNormLaunch(shape, device.facts), [x, weight, a.out, a.said]],
      [quantiseLaunch({ rows, columns: width }, device.facts), [a.out, a.blocks, a.said]]
    ])
    const both = rmsNormLaunch({ ...shape, quantise: true }, device.facts)
    await bench.run([[both, [x, weight, b.out, b.said, b.blocks]]])
    t.same(await bench.words(b.out), await bench.words(a.out))
    t.same(await bench.words(b.blocks), await bench.words(a.blocks))
    t.same(await bench.words(b.said), await bench.words(a.said))
  })

  t.test('dispatch and its tiles', async (t) => {
    for (const [tokens, k, experts] of [
      [1, 2, 8],
      [70, 3, 5],
      [40, 2, 600]
    ] as const) {
      const next = stream(`dispatch ${tokens}`)
      const shape: ExpertShape = {
        tokens,
        k,
        experts,
        width: 32,
        hidden: 32,
        types: { gate: 'F32', up: 'F32', down: 'F32' }
      }
      const ids = new Int32Array(tokens * k)
      for (let token = 0; token < tokens; token++) {
        const first = Math.floor(next() ** 3 * experts)
        for (let s = 0; s < k; s++) ids[token * k + s] = (first + s) % experts
      }
      const chosen = await bench.upload(ids)
      const make = async () => ({
        lists: await Promise.all(
          [experts + 1, tokens * k, tokens * k].map((count) => bench.upload(new Uint32Array(count)))
        ),
        tiles: await bench.upload(new Uint32Array(tilesBytes(shape) / 4).fill(7)),
        said: await bench.upload(status())
      })
      const [a, b] = [await make(), await make()]
      await bench.run([
        [dispatchLaunch(shape), [chosen, ...a.lists, a.said]],
        [expertTilesLaunch(shape, device.facts), [a.lists[0]!, a.lists[1]!, a.tiles, a.said]]
      ])
      await bench.run([
        [dispatchLaunch(shape, expertTiles(shape, device.facts)), [chosen, ...b.lists, b.said, b.tiles]]
      ])
      for (const [i, list] of a.lists.entries()) t.same(await bench.words(b.lists[i]!), await bench.words(list))
      t.same(await bench.words(b.tiles), await bench.words(a.tiles), `${tokens} tokens of ${experts} experts`)
      t.same(await bench.words(b.said), await bench.words(a.said))
    }
  })
}

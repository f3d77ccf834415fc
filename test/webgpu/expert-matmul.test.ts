import t, { type Test } from 'tap'
import type { DType, ExpertMatmulRequest, WebgpuBackend } from 'tiered-moe/kernels'
import { dtypes, openBackend } from 'tiered-moe/kernels'
import { firstFar } from '../kernels/close.js'
import { type ExpertLayer, expertLayer } from '../kernels/expert-layer.js'
import { dispatchMisfits } from '../kernels/misfits.js'
import { tolerances } from '../kernels/tolerance.js'
import { isQuantised, skews } from '../kernels/values.js'
import { openGpu } from './adapter.js'

const cpu = openBackend('cpu')
t.teardown(() => cpu.dispose())
const gpu = await openGpu(t)
const plain = gpu && (await openGpu(t, { without: ['subgroups', 'f16', 'dot4'] }))

/** A seeded layer with its request and what the oracle in doubles makes of it. */
function layer(shape: ExpertLayer) {
  const { tokens, experts, k, skew, types, width, hidden } = shape
  const label = `${types.join(' ')}, ${width} → ${hidden}, ${tokens} tokens, ${k} of ${experts}, ${skew}`
  const { x, offsets, slots, file, options, oracle } = expertLayer(shape, label)
  const { gate, up, down } = file
  const packed = { gate: cpu.pack(gate, experts), up: cpu.pack(up, experts), down: cpu.pack(down, experts) }
  const request: ExpertMatmulRequest = { x, k, offsets, slots, ...packed, ...options }
  const tolerance = types.some(isQuantised) ? tolerances.expertQuantisedGpu : tolerances.expertFloatGpu
  return { label, request, far: (result: Float32Array) => firstFar(result, oracle(), tolerance) }
}

async function near(test: Test, backend: WebgpuBackend, shape: ExpertLayer) {
  const own = layer(shape)
  test.equal(own.far(await backend.expertMatmul(own.request)), undefined, own.label)
}

/** Width and hidden width of a type: whole blocks for the quantised, odd for the others. */
const sizesOf: Record<DType, readonly [width: number, hidden: number]> = {
  F32: [17, 5],
  F16: [31, 20],
  BF16: [33, 48],
  Q8_0: [96, 64],
  Q4_0: [64, 160],
  Q4_K: [256, 256],
  Q6_K: [256, 256],
  MXFP4: [64, 96]
}

if (gpu && plain) {
  t.test('grid', async (test) => {
    let turn = 0
    for (const type of dtypes) {
      const [width, hidden] = sizesOf[type]
      const types = [type, type, type] as const
      const skew = skews[turn++ % skews.length]!
      await near(test, gpu, { tokens: 5, experts: 8, k: 2, skew, types, width, hidden })
      await near(test, gpu, { tokens: 0, experts: 3, k: 2, skew, types, width, hidden })
    }
    for (const type of ['Q4_0', 'F16'] as const) {
      const [width, hidden] = sizesOf[type]
      await near(test, gpu, { tokens: 1, experts: 8, k: 3, skew: 'even', types: [type, type, type], width, hidden })
    }
    // Tiles of 16 and 32 rows in parts, some full and some not.
    const types = ['Q4_0', 'Q4_0', 'Q4_0'] as const
    for (const [tokens, skew] of [
      [17, 'even'],
      [19, 'one'],
      [17, 'idle'],
      [40, 'even']
    ] as const)
      await near(test, gpu, { tokens, experts: 5, k: 2, skew, types, width: 64, hidden: 96 })
  })

  t.test('without subgroups, f16 and dot4', async (test) => {
    for (const type of ['F16', 'Q4_0'] as const) {
      const [width, hidden] = sizesOf[type]
      await near(test, plain, { tokens: 3, experts: 4, k: 2, skew: 'even', types: [type, type, type], width, hidden })
    }
  })

  t.test('matrices of different types in one layer', async (test) => {
    const mixes = [
      ['Q4_0', 'Q4_0', 'Q6_K'],
      ['Q6_K', 'Q8_0', 'F16']
    ] as const
    for (const types of mixes)
      await near(test, gpu, { tokens: 3, experts: 4, k: 2, skew: 'even', types, width: 256, hidden: 256 })
  })

  t.test('the clamped activation, and biases', async (test) => {
    for (const [types, width, hidden] of [
      [['F32', 'F32', 'F32'], 17, 5],
      [['MXFP4', 'MXFP4', 'MXFP4'], 64, 96],
      [['Q8_0', 'Q4_0', 'F16'], 64, 32]
    ] as const) {
      for (const [activation, biased] of [
        ['clamped_swiglu', true],
        ['clamped_swiglu', false],
        ['silu', true]
      ] as const)
        await near(test, gpu, { tokens: 9, experts: 4, k: 2, skew: 'even', types, width, hidden, activation, biased })
    }
  })

  t.test('a row has the same bits alone and among others, whatever the tile', async (test) => {
    const [width, hidden] = [64, 160]
    for (const type of ['F16', 'Q4_0'] as const) {
      const types = [type, type, type] as const
      const { request } = layer({ tokens: 45, experts: 2, k: 1, skew: 'one', types, width, hidden })
      const all = await gpu.expertMatmul(request)
      const [first] = request.offsets[1] === 45 ? [0] : [1]
      // Tiles of 1, 16 and 32 rows of Q4_0, the last twice, on a GPU, of 1, 4 and 8 else; rows at the ends of tiles and of their parts.
      for (const [begin, count] of [
        [0, 1],
        [44, 1],
        [31, 4],
        [13, 5],
        [20, 25]
      ] as const) {
        const part = {
          ...request,
          x: request.x.slice(begin * width, (begin + count) * width),
          offsets: first === 0 ? Uint32Array.of(0, count, count) : Uint32Array.of(0, 0, count),
          slots: Uint32Array.from({ length: count }, (_, i) => i)
        }
        const wanted = all.slice(begin * width, (begin + count) * width)
        test.same(await gpu.expertMatmul(part), wanted, `${type}, ${count} from ${begin}`)
      }
    }
    const types = ['Q4_0', 'Q4_0', 'Q4_0'] as const
    const { request } = layer({ tokens: 19, experts: 8, k: 2, skew: 'one', types, width, hidden })
    test.same(await plain.expertMatmul(request), await gpu.expertMatmul(request), 'without subgroups, f16 and dot4')
  })

  t.test('arrays that stay on the device', async (test) => {
    const shape = {
      tokens: 3,
      experts: 4,
      k: 2,
      skew: 'even',
      types: ['Q8_0', 'Q8_0', 'Q8_0'],
      width: 96,
      hidden: 64
    } as const
    const { request } = layer(shape)
    const upload = async (matrix: ExpertMatmulRequest['gate']) => ({ ...matrix, data: await gpu.upload(matrix.data) })
    const out = await gpu.allocate('f32', 6 * 96)
    const given = {
      ...request,
      x: await gpu.upload(request.x),
      offsets: await gpu.upload(request.offsets),
      slots: await gpu.upload(request.slots),
      gate: await upload(request.gate),
      up: await upload(request.up),
      down: await upload(request.down),
      out
    }
    test.equal(await gpu.expertMatmul(given), out)
    test.same(await out.read(), await gpu.expertMatmul(request))
  })

  t.test('a value that is not finite meets quantised weights', async (test) => {
    const types = ['Q4_0', 'Q4_0', 'Q4_0'] as const
    const { request } = layer({ tokens: 4, experts: 3, k: 2, skew: 'even', types, width: 96, hidden: 64 })
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const x = request.x.slice()
      x[2 * 96 + 95] = bad
      const refused = gpu.expertMatmul({ ...request, x })
      await test.rejects(refused, { code: 'RUNTIME_NAN_DETECTED', details: { token: 2 } })
    }
  })

  t.test('offsets and slots that no dispatch gave', async (test) => {
    const types = ['F16', 'F16', 'F16'] as const
    const { request } = layer({ tokens: 2, experts: 2, k: 2, skew: 'even', types, width: 17, hidden: 5 })
    const bad: Record<string, Partial<ExpertMatmulRequest>> = {
      ...dispatchMisfits,
      'a matrix of another size': { up: { ...request.up, rows: 4 } },
      'too little data': { down: { ...request.down, data: request.down.data.slice(4) } }
    }
    for (const [name, part] of Object.entries(bad))
      await test.rejects(gpu.expertMatmul({ ...request, ...part }), { code: 'VALIDATION_ERROR' }, name)
  })
}

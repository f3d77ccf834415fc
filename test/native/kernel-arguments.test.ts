/** Every kernel with hostile arguments, through the addon and through the public interface: a typed error or a result, never a crash. */
import t from 'tap'
import { isEngineError } from 'tiered-moe'
import { kvCacheBytes, openBackend, packedBytes } from 'tiered-moe/kernels'
import type { native as Native } from '../../lib/native.js'
import { built } from '../fixtures/package.js'
import { besiege, outcome, report } from './hostile.js'

// The addon's own surface is not exported by the package: it is reached by its place.
const { native } = (await built('native.js')) as { native: typeof Native }
const addon = native()

/** Positional arguments (lib/kernels/calls.ts) that are right: 4 tokens, width 32, 3 experts, 2 chosen. */
function kernelCalls(): Record<string, unknown[]> {
  const kernels = openBackend('cpu')
  const floats = (n: number) => Float32Array.from({ length: n }, (_, i) => Math.sin(i))
  const positions = Uint32Array.from([0, 1, 2, 3])
  const { router, routerExponent } = kernels.packRouter(floats(3 * 32))
  const ids = Int32Array.from([0, 1, 1, 2, 0, 2, 2, 1])
  const { offsets, slots, rows } = kernels.sync.dispatch({ ids, k: 2, experts: 3 })
  const raw = kernels.sync.quantize({ type: 'Q8_0', x: floats(3 * 32 * 32), columns: 32 })
  const packed = kernels.pack({ type: 'Q8_0', rows: 32, columns: 32, data: raw }, 3).data
  const matrix = ['Q8_0', 32, 32, packed]
  const cache = new Uint8Array(kvCacheBytes({ positions: 4, kvHeads: 1, headDim: 16 }))
  kernels.dispose()
  const seed = new Uint32Array(4)
  return {
    route: [
      floats(128),
      router,
      routerExponent,
      3,
      2,
      'sigmoid',
      true,
      0,
      seed,
      positions,
      new Uint8Array(3).fill(1),
      new Uint32Array(4),
      2.5,
      router.slice(0, 3),
      0,
      new BigInt64Array(3),
      3,
      2,
      'top2',
      new Int32Array(8),
      floats(8),
      new BigInt64Array(12)
    ],
    'route, hser': [
      floats(128),
      router,
      routerExponent,
      3,
      2,
      'hser',
      true,
      0,
      seed,
      positions,
      new Uint8Array(3).fill(1),
      new Uint32Array(4),
      1,
      undefined,
      0,
      undefined,
      undefined,
      undefined,
      'max',
      Uint32Array.of(0, 1, 2),
      Uint32Array.of(0, 1, 3),
      router.slice(0, 64),
      routerExponent,
      router.slice(0, 64),
      routerExponent,
      2,
      1,
      1,
      256,
      new Int32Array(8),
      floats(8),
      new BigInt64Array(28)
    ],
    dispatch: [ids, 2, 3, new Uint32Array(4), new Uint32Array(8), new Uint32Array(8)],
    expertMatmul: [
      floats(128),
      2,
      offsets,
      slots,
      ...matrix,
      ...matrix,
      ...matrix,
      floats(8 * 32),
      'clamped_swiglu',
      floats(96),
      undefined,
      floats(96)
    ],
    combine: [floats(8 * 32), ids, floats(8), rows, 2, 3, 32, false, floats(128)],
    allToAllPack: [floats(128), 32, 2, offsets, slots, 2, floats(8 * 32), new Uint32Array(2)],
    allToAllUnpack: [floats(8 * 32), 32, 2, offsets, slots, floats(8 * 32)],
    rmsNorm: [floats(64), floats(32), 1e-5, floats(64)],
    rope: [floats(128), positions, 2, 16, 16, 10_000, 'neox', floats(8).fill(2), 4, 1.5, 'turns', 1, 4, 1, 64],
    attention: [floats(128), floats(64), floats(64), cache, 0, 2, 1, 16, 16, 0.25, 'f16', floats(128), 3, floats(2)],
    embed: ['Q8_0', 32, 32, raw, new Int32Array([0, 31]), floats(64)],
    logits: [floats(64), ...matrix, floats(64)],
    sample: [floats(50), 3, 0.7, 5, 0.9, 0.05, 1.1, 7, 2, new Int32Array(1), new Int32Array(1)],
    logLoss: [floats(100), new Int32Array([3, 49]), floats(2)],
    quantize: ['Q4_0', floats(64), 32, new Uint8Array(36)],
    dequantize: ['Q8_0', raw.slice(0, 68), 32, floats(64)],
    pack: ['Q8_0', 32, 32, 3, raw, new Uint8Array(3 * packedBytes('Q8_0', 32, 32))],
    packRouter: [floats(64), new Int32Array(64)]
  }
}

t.test('kernels, synchronous, naive and asynchronous', async (t) => {
  const before = addon.counters()
  const backend = addon.createBackend({ threads: 2, isa: 'auto' })
  const calls = kernelCalls()
  for (const [name, args] of Object.entries(calls)) {
    const op = name.split(',')[0]!
    t.equal(await outcome(() => backend.call(op, args, false)), 'fine', op)
    t.equal(await outcome(() => backend.callAsync(op, args, false)), 'fine', op)
    report(t, name, await besiege(args, (changed) => backend.call(op, changed, false)))
    report(t, `${name}, naive`, await besiege(args, (changed) => backend.call(op, changed, true)))
    report(t, `${name}, asynchronous`, await besiege(args, (changed) => backend.callAsync(op, changed, false)))
    for (let length = 0; length < args.length; length++) {
      const result = await outcome(() => backend.call(op, args.slice(0, length), false))
      // Optional arguments are the last ones.
      t.ok(
        result === 'VALIDATION_ERROR' || (result === 'fine' && length >= args.length - 2),
        `${name} with ${length} arguments`
      )
    }
  }
  report(
    t,
    'call',
    await besiege(['rmsNorm', calls.rmsNorm, false], (args) => backend.call(...(args as ['x', [], true])))
  )
  const reentrant = [...calls.rmsNorm!]
  Object.defineProperty(reentrant, 2, {
    get() {
      backend.dispose()
      return 1e-5
    }
  })
  t.equal(await outcome(() => backend.call('rmsNorm', reentrant, false)), 'VALIDATION_ERROR', 'disposed by a getter')
  t.same(addon.counters(), before)
})

t.test('the public kernel interface', async (t) => {
  const before = addon.counters()
  const kernels = openBackend('cpu', { threads: 2 })
  for (const name of Object.keys(kernels.sync) as 'route'[]) {
    for (const table of [kernels, kernels.sync, kernels.naive]) {
      const requests = {
        undefined: undefined,
        null: null,
        number: 5,
        text: 'x',
        array: [],
        object: {},
        proxy: new Proxy({}, {})
      }
      for (const [kind, request] of Object.entries(requests)) {
        const result = await Promise.resolve()
          .then(() => table[name](request as never))
          .catch((error: unknown) => error)
        t.ok(isEngineError(result), `${name}: ${kind}`)
      }
    }
  }
  kernels.dispose()
  t.same(addon.counters(), before)
})

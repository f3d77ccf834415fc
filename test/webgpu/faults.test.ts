/** What goes wrong on a GPU is an error with a code of its own, and the process goes on. Every fault is injected for real. */
import { spawnSync } from 'node:child_process'
import t from 'tap'
import type { WebgpuBackend } from 'tiered-moe/kernels'
import { openBackend } from 'tiered-moe/kernels'
import { GpuCalls } from '../../lib/backends/webgpu/backend.js'
import type { GpuDeviceOptions } from '../../lib/backends/webgpu/device.js'
import { GpuDevice } from '../../lib/backends/webgpu/device.js'
import { usage } from '../../lib/backends/webgpu/flags.js'
import type { Launch } from '../../lib/backends/webgpu/launches/launch.js'
import { words } from '../../lib/backends/webgpu/launches/launch.js'
import { type AttentionOp, KvPool, pageBytes } from '../../lib/backends/webgpu/model/kv-pool.js'
import { onNode } from '../../lib/backends/webgpu/node-provider.js'
import { openGpu } from './adapter.js'

/** A shader of this test's own, behind the same preprocessor: `params.rounds` rounds, then `$BODY`. */
const rounds = `$HEAD
  struct Params { rounds: u32 }
  @group(0) @binding(0) var<uniform> params: Params;
  @group(0) @binding(1) var<storage, read_write> x: array<u32>;
  @compute @workgroup_size(1) fn main() {
    var sum = 1u;
    for (var i = 0u; i < params.rounds; i++) { sum = sum * 1664525u + x[1]; }
    $BODY
  }`
type Parts = { head?: string; body?: string; x?: number }
const launch = (count: number, { head = '', body = 'x[0]=sum;', x = 1 }: Parts = {}): Launch => ({
  shader: 'rounds',
  // A key has its parts apart by blanks.
  defines: { HEAD: head.replaceAll(' ', '\t'), BODY: body },
  workgroups: [x, 1, 1],
  params: words(count)
})
const open = (options: Partial<GpuDeviceOptions> = {}) =>
  GpuDevice.open({ ...onNode, shaders: (name) => (name === 'rounds' ? rounds : onNode.shaders(name)), ...options })

/** Runs `count` rounds on a buffer of its own and gives the sum. */
async function run(device: GpuDevice, count: number, parts?: Parts): Promise<number> {
  const buffer = await device.memory.allocate(16, 'a test')
  const bound = await device.bind(launch(count, parts), [{ buffer }])
  device.submit((commands) => commands.run(bound))
  const [sum] = new Uint32Array(await device.read({ buffer, size: 4 }))
  bound.dispose()
  device.memory.free(buffer)
  return sum!
}
/** 5 rounds on zeros give 1664525^5. */
const works = async (device: GpuDevice) =>
  (await run(device, 5)) === [0, 1, 2, 3, 4].reduce((n) => Math.imul(n, 1664525), 1) >>> 0

/** A program in a process of its own: what it prints, line by line, and how it ended. */
function program(text: string, env: Record<string, string> = {}, limit = 'unlimited') {
  const { stdout, stderr, status, signal } = spawnSync(
    'bash',
    [
      '-c',
      `ulimit -v ${limit}; exec "$0" --max-old-space-size=200 --input-type=module -e "$1"`,
      process.execPath,
      text
    ],
    { env: { ...process.env, NODE_OPTIONS: '', ...env }, encoding: 'utf8' }
  )
  return { lines: stdout.trim().split('\n'), ended: signal ?? status, stderr }
}

const adapter = await openGpu(t)
if (adapter) faults(adapter)

function faults(gpu: WebgpuBackend): void {
  const one = { x: Float32Array.of(2), weight: Float32Array.of(1), epsilon: 0 }

  t.test('no adapter: the driver is made unavailable', async (test) => {
    const none = '/nowhere/icd.json'
    const { lines, ended } = program(
      `const { openBackend } = await import('tiered-moe/kernels')
       const code = await openBackend('webgpu').then(() => 'opened', (error) => error.code)
       const cpu = await openBackend('cpu').rmsNorm({ x: Float32Array.of(2), weight: Float32Array.of(1), epsilon: 0 })
       console.log(code, cpu[0])`,
      { VK_ICD_FILENAMES: none, VK_DRIVER_FILES: none }
    )
    test.same(lines.at(-1)?.split(' '), ['GPU_ADAPTER_UNAVAILABLE', '1'], 'and the CPU backend works')
    test.equal(ended, 0)
  })

  t.test('limits', async (test) => {
    const required = 2 ** 40
    for (const limit of ['maxBufferSize', 'maxComputeInvocationsPerWorkgroup'] as const) {
      await test.rejects(open({ limits: { [limit]: required } }), {
        code: 'GPU_LIMIT_EXCEEDED',
        details: { limit, required }
      })
    }
    await test.rejects(gpu.allocate('f32', 2 ** 38), {
      code: 'GPU_LIMIT_EXCEEDED',
      details: { limit: 'maxBufferSize' }
    })
    test.same(await gpu.rmsNorm(one), [1])

    const device = await open()
    test.teardown(() => device.dispose())
    const { maxStorageBufferBindingSize: most, maxBufferSize } = device.facts.limits
    if (most >= maxBufferSize || most > 2 ** 30) return
    const buffer = await device.memory.allocate(most + 16, 'a test')
    const limit = 'maxStorageBufferBindingSize'
    const details = { limit, required: most + 16, available: most }
    await test.rejects(device.bind(launch(1), [{ buffer }]), { code: 'GPU_LIMIT_EXCEEDED', details }, 'a binding')
    test.ok(await works(device))
  })

  t.test('who watches what is compiled is told of what is asked for from then on', async (test) => {
    const device = await open()
    test.teardown(() => device.dispose())
    const get = (...values: number[]) =>
      Promise.all(values.map((value) => device.pipelines.get(launch(1, { body: `x[0]=${value}u;` }))))
    await get(1)
    const told: [number, number][][] = [[], []]
    const watched = (list: [number, number][], ...values: number[]) =>
      device.pipelines.watched(
        (done, count) => void list.push([done, count]),
        () => get(...values)
      )
    await Promise.all([watched(told[0]!, 1, 2, 3), watched(told[1]!, 2, 4)])
    test.same(told[0]!.slice(0, 2), [
      [1, 3],
      [2, 3]
    ])
    test.same(told[1], [[1, 1]])
  })

  t.test('a byte budget', async (test) => {
    const small = await openBackend('webgpu', { memory: '64KiB' })
    test.teardown(() => small.dispose())
    const held = await small.allocate('u8', 60_000)
    const x = new Float32Array(4096)
    const refusal = {
      code: 'GPU_VRAM_EXHAUSTED',
      details: {
        device: small.device,
        required: 16384,
        available: 5536,
        alternatives: [],
        resourceInfo: { limit: 65536 }
      }
    }
    await test.rejects(small.upload(x), refusal, 'a device array')
    await test.rejects(small.rmsNorm({ x, weight: x, epsilon: 1 }), { code: 'GPU_VRAM_EXHAUSTED' }, 'a call')
    held.dispose()
    const again = await small.allocate('u8', 60_000)
    again.dispose()
    test.same(await small.rmsNorm(one), [1], 'what was held is free again')
  })

  t.test('a machine whose memory is taken by buffers that were given back', async (test) => {
    const [large, limit] = [2 ** 22, 5 * 2 ** 20]
    const granted = () => limit - (device?.memory.usedBytes ?? 0)
    const hostMemory = { grants: (bytes: number) => bytes - 2 ** 29 <= granted() }
    let device: GpuDevice | undefined
    device = await open({ hostMemory })
    test.teardown(() => device?.dispose())
    if (!device.info.isFallbackAdapter) return
    const { memory } = device
    const from = await memory.allocate(2 ** 20, 'a test')
    await device.read({ buffer: from, size: 2 ** 20 })
    test.equal(memory.usedBytes, 2 * 2 ** 20, 'what it was read through is kept')
    const buffer = await memory.allocate(large, 'a test')
    test.equal(buffer.size, large)
    await test.rejects(memory.allocate(large, 'a test'), { code: 'GPU_VRAM_EXHAUSTED' })
    test.equal(memory.usedBytes, limit)
    memory.free(buffer)
    await device.read({ buffer: from, size: 2 ** 20 })
    const { made } = memory.take(large, usage.storage)
    await test.resolves(made, 'for what is taken for one use too')
  })

  t.test('a buffer that was given back before it was refused', async (test) => {
    const device = await open()
    test.teardown(() => device.dispose())
    const { memory } = device
    // No buffer may be both.
    const flags = usage.mapRead | usage.storage
    const refused = { code: 'GPU_VALIDATION_FAILED' }
    const [first, kept] = [memory.take(256, flags), memory.take(256, flags)]
    memory.give(first.buffer, first.made)
    memory.give(kept.buffer, kept.made)
    const next = memory.take(256, flags)
    test.equal(next.buffer, kept.buffer)
    const told = await Promise.allSettled([first, kept, next].map(({ made }) => made))
    for (const { reason } of told as PromiseRejectedResult[]) test.match(reason, refused, 'whoever took it is told')
    const last = memory.take(256, flags)
    test.notOk([first.buffer, kept.buffer].includes(last.buffer), 'it is given to nobody else')
    await test.rejects(last.made, refused)
    test.equal(memory.usedBytes, 0)
  })

  t.test('a read that finds no memory for what it brings', async (test) => {
    const device = await open({ memoryBytes: 3 * 4096 })
    test.teardown(() => device.dispose())
    const from = { buffer: await device.memory.allocate(4096, 'a test'), size: 4096 }
    const three = () => device.submit((commands) => Array.from({ length: 3 }, () => commands.read(from)))
    for (let i = 0; i < 3; i++) test.throws(three, { code: 'GPU_VRAM_EXHAUSTED' })
    test.equal((await device.read(from)).byteLength, 4096, 'what was for the other reads is free')
    device.memory.trim()
    test.equal(device.memory.usedBytes, 4096)
  })

  t.test('a KV cache without room for twice as many pages, or for old and new ones together', async (test) => {
    const one = { kvHeads: 1, headDim: 4, valueDim: 4 } as AttentionOp
    const layers = [0, 1, 2]
    const page = pageBytes(one, 'f32')
    const device = await open({ memoryBytes: 36 * page })
    test.teardown(() => device.dispose())
    const pool = new KvPool(device, 'f32', [one, one, one])
    const pages: number[] = []
    await pool.reserve(pages, 8)
    for (const layer of layers) device.write(pool.buffer(layer).buffer, 4, Uint32Array.of(layer + 7))
    const held = async () => {
      const read = layers.map((layer) => device.read({ buffer: pool.buffer(layer).buffer, size: 8 }))
      return (await Promise.all(read)).map((bytes) => new Uint32Array(bytes)[1])
    }
    await pool.reserve(pages, 9)
    test.equal(device.memory.peakBytes, 35 * page, 'one layer after another')
    test.same([new Set(pages).size, await held()], [9, [7, 8, 9]], 'what was in it is there')
    await test.rejects(pool.reserve(pages, 40), { code: 'GPU_VRAM_EXHAUSTED' })
    test.same([pages.length, await held()], [9, [7, 8, 9]])
    pool.dispose()
    device.memory.trim()
    test.equal(device.memory.usedBytes, 0)
  })

  t.test('a KV cache whose pages others have', async (test) => {
    const device = await open()
    test.teardown(() => device.dispose())
    const { maxStorageBufferBindingSize: limit } = device.facts.limits
    // A binding holds two pages.
    const dim = Math.floor(limit / 2 ** 10)
    const layer = { kvHeads: 1, headDim: dim, valueDim: dim } as AttentionOp
    if (limit > 2 ** 28) return
    const page = pageBytes(layer, 'f32')
    const pool = new KvPool(device, 'f32', [layer])
    const [one, two, three]: number[][] = [[], [], []]
    await pool.reserve(one!, 1)
    await pool.reserve(two!, 1)
    const details = { required: page, available: 0, alternatives: [] }
    await test.rejects(pool.reserve(three!, 1), { code: 'GPU_VRAM_EXHAUSTED', retryable: true, details })
    const never = { limit: 'maxStorageBufferBindingSize', required: 3 * page, available: limit }
    await test.rejects(pool.reserve(one!, 3), { code: 'GPU_LIMIT_EXCEEDED', retryable: false, details: never })
    test.same([one!.length, two!.length, three!.length], [1, 1, 0])
    pool.giveBack(two!)
    await pool.reserve(three!, 1)
    test.same(three, two, 'later there is room')
    pool.dispose()
  })

  t.test('a system that grants no more memory', { skip: process.platform !== 'linux' }, async (test) => {
    const { lines, ended, stderr } = program(
      `const { openBackend } = await import('tiered-moe/kernels')
       const gpu = await openBackend('webgpu')
       const held = []
       try { for (;;) held.push(await gpu.allocate('f32', 2 ** 25)) } catch (error) { console.log(error.code) }
       for (const array of held) array.dispose()
       console.log((await gpu.rmsNorm({ x: Float32Array.of(2), weight: Float32Array.of(1), epsilon: 0 }))[0])`,
      {},
      '6000000'
    )
    test.same([lines, ended], [['GPU_VRAM_EXHAUSTED', '1'], 0], stderr)
  })

  t.test('shaders that do not compile', async (test) => {
    const device = await open({ without: ['f16'] })
    test.teardown(() => device.dispose())
    const refused = async (parts: Parts, compiler: RegExp) =>
      test.rejects(run(device, 1, parts), {
        code: 'GPU_SHADER_INVALID',
        details: { shader: 'rounds', compiler: [compiler] }
      })
    await refused({ body: 'x[0]=nothing;' }, /nothing/)
    await refused({ head: 'enable f16;' }, /f16/)
    await refused(
      { head: 'var<workgroup> much: array<u32, 4000000>;', body: 'much[0]=sum;x[0]=much[0];' },
      /workgroup/i
    )
    await test.rejects(device.bind({ ...launch(1), shader: 'unheard_of' }, []), { code: 'VALIDATION_ERROR' })
    test.ok(await works(device))
  })

  t.test('invalid commands', async (test) => {
    const device = await open()
    test.teardown(() => device.dispose())
    const buffer = await device.memory.allocate(16, 'a test')
    await test.rejects(device.bind(launch(1), []), { code: 'GPU_VALIDATION_FAILED' }, 'a buffer is missing')
    await test.rejects(
      device.read({ buffer, offset: 0, size: 4096 }),
      { code: 'GPU_VALIDATION_FAILED' },
      'past the end'
    )
    await test.rejects(run(device, 1, { x: 2 ** 20 }), { code: 'GPU_VALIDATION_FAILED' }, 'too many workgroups')
    const bound = await device.bind(launch(1), [{ buffer }])
    device.memory.free(buffer)
    device.submit((commands) => commands.run(bound))
    await test.rejects(device.finished(), { code: 'GPU_VALIDATION_FAILED' }, 'a buffer that was freed')
    await device.finished()
    test.ok(await works(device), 'the device goes on')
  })

  t.test('values and arrays that cannot be', async (test) => {
    const nan = { ...one, x: Float32Array.of(Number.NaN) }
    await test.rejects(gpu.rmsNorm(nan), { code: 'RUNTIME_NAN_DETECTED', details: { token: 0 } })
    const other = await openBackend('webgpu')
    const theirs = await other.upload(one.x)
    await test.rejects(gpu.rmsNorm({ ...one, x: theirs }), { code: 'VALIDATION_ERROR', details: { argument: 'x' } })
    other.dispose()
    await test.rejects(theirs.read(), { code: 'GPU_DEVICE_LOST', details: { reason: 'disposed' } })
    await test.rejects(other.rmsNorm(one), { code: 'GPU_DEVICE_LOST' }, 'a backend that was disposed')
    test.same(await gpu.rmsNorm(one), [1], 'another one is not touched')
  })

  t.test('a device that is lost', async (test) => {
    const idle = await open()
    idle.device.destroy()
    await test.rejects(works(idle), { code: 'GPU_DEVICE_LOST', details: { reason: 'destroyed' } }, 'between two calls')
    test.throws(() => idle.check(), { code: 'GPU_DEVICE_LOST' })

    const busy = await open()
    const buffer = await busy.memory.allocate(16, 'a test')
    const bound = await busy.bind(launch(2 ** 20), [{ buffer }])
    busy.submit((commands) => commands.run(bound))
    const waits = [busy.finished(), busy.read({ buffer, size: 4 }), busy.bind(launch(3), [{ buffer }])]
    busy.device.destroy()
    for (const wait of await Promise.allSettled(waits.slice(1))) {
      test.match(wait, { status: 'rejected', reason: { code: 'GPU_DEVICE_LOST' } }, 'with calls under way')
    }
    await waits[0]?.catch(() => {})

    const called = await open()
    const submit = called.submit.bind(called)
    called.submit = (encode) => {
      submit(encode)
      called.device.destroy()
    }
    const result = new GpuCalls(called).table().rmsNorm(one)
    await test.rejects(result, { code: 'GPU_DEVICE_LOST' }, 'with several reads under way, of which one is told')
    const again = await open()
    test.ok(await works(again), 'the adapter gives another device')
    again.dispose()
  })

  t.test('a submit that does not end', async (test) => {
    // Some 10 s of rounds; the process is left before, as nothing can stop a GPU.
    const { lines, ended, stderr } = program(`
      const { GpuDevice } = await import(${JSON.stringify(new URL('../../dist/esm/backends/webgpu/device.js', import.meta.url))})
      const { onNode } = await import(${JSON.stringify(new URL('../../dist/esm/backends/webgpu/node-provider.js', import.meta.url))})
      const { openBackend } = await import('tiered-moe/kernels')
      const other = await openBackend('webgpu')
      const code = ${JSON.stringify(rounds.replace('$HEAD', '').replace('$BODY', 'x[0] = sum;'))}
      const hung = await GpuDevice.open({ ...onNode, shaders: () => code, timeoutMs: 300 })
      const buffer = await hung.memory.allocate(16, 'a test')
      const bound = await hung.bind({ shader: 'rounds', defines: {}, workgroups: [1, 1, 1], params: Uint32Array.of(450_000_000, 0, 0, 0) }, [{ buffer }])
      let ticks = 0
      setInterval(() => ticks++, 10)
      hung.submit((commands) => commands.run(bound))
      const waits = [hung.finished(), hung.read({ buffer, size: 4 })]
      for (const { reason } of await Promise.allSettled(waits)) console.log(reason.code, reason.details.timeoutMs)
      try { hung.check() } catch (error) { console.log(error.code) }
      await hung.bind({ shader: 'rounds', defines: {}, workgroups: [1, 1, 1], params: new Uint32Array(4) }, [{ buffer }]).catch((error) => console.log(error.code))
      hung.dispose()
      console.log((await other.rmsNorm({ x: Float32Array.of(2), weight: Float32Array.of(1), epsilon: 0 }))[0])
      console.log(ticks > 5)
      process.exit(0)`)
    const timeout = 'GPU_SUBMIT_TIMEOUT'
    test.same(lines, [`${timeout} 300`, `${timeout} 300`, timeout, timeout, '1', 'true'], stderr)
    test.equal(ended, 0)
  })

  t.test('a thread that is held up for longer than a submit may take', async (test) => {
    const device = await open({ timeoutMs: 300 })
    test.teardown(() => device.dispose())
    const buffer = await device.memory.allocate(16, 'a test')
    const bound = await device.bind(launch(100_000), [{ buffer }])
    const asleep = new Int32Array(new SharedArrayBuffer(4))
    const waits = [() => device.finished(), () => device.read({ buffer, size: 4 })]
    for (const wait of waits) {
      device.submit((commands) => commands.run(bound))
      const done = wait()
      // A read is waited for once its buffer is there.
      await new Promise((resolve) => setImmediate(resolve))
      Atomics.wait(asleep, 0, 0, 900)
      await test.resolves(Promise.resolve<unknown>(done), 'what ended meanwhile has ended')
    }
    test.ok(await works(device))
  })

  t.test('a script ends by itself', async (test) => {
    for (const last of ['gpu.dispose()', '', 'const later = gpu.rmsNorm(one)']) {
      const { lines, ended } = program(
        `const { openBackend } = await import('tiered-moe/kernels')
         const gpu = await openBackend('webgpu')
         const one = { x: Float32Array.of(2), weight: Float32Array.of(1), epsilon: 0 }
         console.log((await gpu.rmsNorm(one))[0])
         ${last}`
      )
      test.same([lines, ended], [['1'], 0], last || 'without dispose')
    }
  })

  t.test('options', async (test) => {
    await test.rejects(openBackend('webgpu', { timeoutMs: 0 }), { code: 'VALIDATION_ERROR' })
    test.throws(() => openBackend('metal' as 'cpu'), { code: 'BACKEND_UNAVAILABLE' })
  })
}

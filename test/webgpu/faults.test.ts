/** What goes wrong on a GPU is an error with a code of its own, and the process goes on. Every fault is injected for real. */
import { spawnSync } from 'node:child_process'
import t from 'tap'
import { openBackend } from 'tiered-moe/kernels'
import type { GpuDeviceOptions } from '../../lib/backends/webgpu/device.js'
import { GpuDevice } from '../../lib/backends/webgpu/device.js'
import type { Launch } from '../../lib/backends/webgpu/launches/launch.js'
import { words } from '../../lib/backends/webgpu/launches/launch.js'
import { nodeGpu } from '../../lib/backends/webgpu/node-provider.js'
import { openGpu } from './adapter.js'

/** A shader that runs `params.x` rounds. */
const rounds = (body = 'x[0] = sum;') => `
  struct Params { rounds: u32 }
  @group(0) @binding(0) var<uniform> params: Params;
  @group(0) @binding(1) var<storage, read_write> x: array<u32>;
  @compute @workgroup_size(1) fn main() {
    var sum = 1u;
    for (var i = 0u; i < params.rounds; i++) { sum = sum * 1664525u + x[1]; }
    ${body}
  }`
const launch = (count: number, shader = 'rounds'): Launch => ({
  shader,
  defines: {},
  workgroups: [1, 1, 1],
  params: words(count)
})
const shaders: Record<string, string> = {
  rounds: rounds(),
  broken: rounds('x[0] = nothing_of_this_name;'),
  'too-large': `var<workgroup> much: array<u32, 4000000>;\n${rounds('much[0] = sum; x[0] = much[0];')}`
}

const adapter = await openGpu(t)
const open = (options: Partial<GpuDeviceOptions> = {}) =>
  GpuDevice.open({ provider: nodeGpu, shaders: (shader) => shaders[shader] ?? '', ...options })

/** The device still computes: 5 rounds on zeros give 1664525^5. */
async function works(device: GpuDevice): Promise<boolean> {
  const buffer = await device.memory.allocate(16, 'a test')
  const bound = await device.bind(launch(5), [{ buffer }])
  device.submit((commands) => commands.run(bound))
  const [sum] = new Uint32Array(await device.read({ buffer, size: 4 }))
  bound.dispose()
  device.memory.free(buffer)
  let expected = 1
  for (let i = 0; i < 5; i++) expected = Math.imul(expected, 1664525)
  return sum === expected >>> 0
}

if (adapter) {
  t.test('no adapter', async (test) => {
    const program = `
      const { openBackend } = await import('tiered-moe/kernels')
      await openBackend('webgpu').then(() => console.log('opened'), (error) => console.log(error.code))
      const cpu = openBackend('cpu')
      console.log((await cpu.rmsNorm({ x: Float32Array.of(2), weight: Float32Array.of(1), epsilon: 0 }))[0])`
    const none = '/nowhere/icd.json'
    const env = { ...process.env, VK_ICD_FILENAMES: none, VK_DRIVER_FILES: none, NODE_OPTIONS: '' }
    const { stdout } = spawnSync(process.execPath, ['--input-type=module', '-e', program], { env, encoding: 'utf8' })
    test.same(stdout.trim().split('\n'), ['GPU_ADAPTER_UNAVAILABLE', '1'], 'and the CPU backend works')
  })

  t.test('a limit asked for that the adapter does not have', async (test) => {
    const required = 2 ** 40
    await test.rejects(open({ limits: { maxBufferSize: required } }), {
      code: 'GPU_LIMIT_EXCEEDED',
      details: { limit: 'maxBufferSize', required }
    })
  })

  t.test('a buffer over the limit, and one over the budget', async (test) => {
    const device = await open({ memoryBytes: 1024 })
    test.teardown(() => device.dispose())
    await test.rejects(device.memory.allocate(2 ** 50, 'a test'), { code: 'GPU_LIMIT_EXCEEDED' })
    const held = await device.memory.allocate(512, 'a test')
    await test.rejects(device.memory.allocate(1024, 'weights'), {
      code: 'GPU_VRAM_EXHAUSTED',
      details: { required: 1024, available: 512, device: device.name, alternatives: [], resourceInfo: { limit: 1024 } }
    })
    device.memory.free(held)
    test.ok(await works(device))
  })

  t.test('a shader that does not compile', async (test) => {
    const device = await open()
    test.teardown(() => device.dispose())
    const buffer = await device.memory.allocate(16, 'a test')
    await test.rejects(device.bind(launch(1, 'broken'), [{ buffer }]), {
      code: 'GPU_SHADER_INVALID',
      details: { shader: 'broken', compiler: [/nothing_of_this_name/] }
    })
    await test.rejects(device.bind(launch(1, 'too-large'), [{ buffer }]), { code: 'GPU_SHADER_INVALID' })
    test.ok(await works(device))
  })

  t.test('invalid commands', async (test) => {
    const device = await open()
    test.teardown(() => device.dispose())
    const buffer = await device.memory.allocate(16, 'a test')
    await test.rejects(device.bind(launch(1), []), { code: 'GPU_VALIDATION_FAILED' })
    const beyond = { buffer, offset: 0, size: 4096 }
    await test.rejects(device.read(beyond), { code: 'GPU_VALIDATION_FAILED' })
    test.ok(await works(device))
  })

  t.test('a device that is lost', async (test) => {
    const device = await open()
    device.device.destroy()
    await test.rejects(works(device), { code: 'GPU_DEVICE_LOST', details: { reason: 'destroyed' } })
    test.throws(() => device.check(), { code: 'GPU_DEVICE_LOST' })
    const again = await open()
    test.ok(await works(again), 'another device of the same adapter works')
    again.dispose()
  })

  t.test('a submit that takes too long', async (test) => {
    const device = await open({ timeoutMs: 200 })
    const buffer = await device.memory.allocate(16, 'a test')
    const bound = await device.bind(launch(2 ** 30), [{ buffer }])
    device.submit((commands) => commands.run(bound))
    await test.rejects(device.finished(), { code: 'GPU_SUBMIT_TIMEOUT', details: { timeoutMs: 200 } })
    test.throws(() => device.check(), { code: 'GPU_SUBMIT_TIMEOUT' })
  })

  t.test('options', async (test) => {
    await test.rejects(openBackend('webgpu', { timeoutMs: 0 }), { code: 'VALIDATION_ERROR' })
    test.throws(() => openBackend('metal' as 'cpu'), { code: 'BACKEND_UNAVAILABLE' })
  })
}

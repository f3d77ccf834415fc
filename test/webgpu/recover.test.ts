/** An engine whose GPU goes: requests end with a code, nothing else falls, and engine.recover() goes on. */
import t from 'tap'
import type { Engine, EngineOptions } from 'tiered-moe'
import { createEngine } from 'tiered-moe'
import { nodeGpu } from '../../lib/backends/webgpu/node-provider.js'
import { openGpu } from './adapter.js'

const request = { model: 'tiny-shakespeare', prompt: 'ROMEO:', maxTokens: 12, temperature: 0, ignoreEos: true }

/** The devices that are opened from here on, and whether adapters are there: the process has one GPU object, whoever asks. */
const devices: GPUDevice[] = []
let noAdapter = false
async function watchDevices(): Promise<void> {
  const gpu = await nodeGpu()
  const requestAdapter = gpu.requestAdapter.bind(gpu)
  gpu.requestAdapter = async (options) => {
    const adapter = noAdapter ? null : await requestAdapter(options)
    if (!adapter) return null
    const requestDevice = adapter.requestDevice.bind(adapter)
    adapter.requestDevice = async (descriptor) => {
      const device = await requestDevice(descriptor)
      devices.push(device)
      return device
    }
    return adapter
  }
}

/** Some seconds of work that nothing can stop. */
async function occupy(device: GPUDevice): Promise<void> {
  const code = `@group(0) @binding(0) var<storage, read_write> x: array<u32>;
    @compute @workgroup_size(1) fn main() { for (var i = 0u; i < 400000000u; i++) { x[0] = x[0] * 1664525u + x[1]; } }`
  const module = device.createShaderModule({ code })
  const pipeline = await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint: 'main' } })
  const buffer = device.createBuffer({ size: 16, usage: 0x80 })
  const group = device.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: [{ binding: 0, resource: { buffer } }]
  })
  const encoder = device.createCommandEncoder()
  const pass = encoder.beginComputePass()
  pass.setPipeline(pipeline)
  pass.setBindGroup(0, group)
  pass.dispatchWorkgroups(1)
  pass.end()
  device.queue.submit([encoder.finish()])
}

async function open(options: EngineOptions = {}): Promise<Engine> {
  const engine = await createEngine({ backend: 'webgpu', threads: 1, ...options })
  t.teardown(() => engine.dispose())
  return engine
}

if (await openGpu(t)) {
  await watchDevices()

  t.test('a device that is lost, and recovered', async (test) => {
    const engine = await open()
    const cpu = await createEngine({ threads: 1 })
    test.teardown(() => cpu.dispose())
    await engine.loadModel({})
    await cpu.loadModel({})
    const { text } = await engine.generate(request)
    let heard = 0
    const running = (async () => {
      for await (const _ of engine.createGenerator({ ...request, maxTokens: 200 })) {
        if (++heard === 3) devices.at(-1)?.destroy()
      }
    })()
    const lost = { code: 'GPU_DEVICE_LOST', severity: 'fatal', retryable: true, details: { reason: 'destroyed' } }
    await test.rejects(running, lost, 'under way')
    test.ok(heard >= 3)
    await test.rejects(engine.generate(request), { code: 'GPU_DEVICE_LOST' }, 'afterwards, at once')
    test.ok((await cpu.generate(request)).text, 'another engine goes on')
    await engine.recover()
    test.equal(engine.state, 'active')
    test.equal((await engine.generate(request)).text, text, 'the same text on the new device')
    await engine.recover()
    test.equal((await engine.generate(request)).text, text, 'where nothing was wrong too')

    devices.at(-1)?.destroy()
    noAdapter = true
    await test.rejects(engine.recover(), { code: 'GPU_ADAPTER_UNAVAILABLE' }, 'no adapter any more')
    noAdapter = false
    test.equal(engine.state, 'closed')
    await test.rejects(engine.generate(request), { code: 'ENGINE_DISPOSED' })
    await cpu.recover()
    test.equal(cpu.state, 'active', 'a CPU has no device to lose')
  })

  t.test('a submit that does not end', async (test) => {
    const engine = await open({ gpu: { timeoutMs: 1000 } })
    await engine.loadModel({})
    const { text } = await engine.generate(request)
    await occupy(devices.at(-1)!)
    await test.rejects(engine.generate(request), { code: 'GPU_SUBMIT_TIMEOUT', details: { timeoutMs: 1000 } })
    await engine.recover()
    test.equal((await engine.generate(request)).text, text)
  })

  t.test('a model that is larger than the budget', async (test) => {
    const engine = await open({ gpu: { memory: '1MiB' } })
    const failure = await engine.loadModel({}).then(
      () => undefined,
      (error) => error
    )
    test.match(failure, {
      code: 'GPU_VRAM_EXHAUSTED',
      details: { required: Number, available: Number, device: String }
    })
    test.equal(failure.details.model, 'tiny-shakespeare')
    test.ok(Array.isArray(failure.details.alternatives))
    test.equal(engine.state, 'warm', 'the engine is as it was')
  })
}

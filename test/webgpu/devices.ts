/** The devices that a test's engines open, to take them away: the process has one GPU object, whoever asks. */
import { nodeGpu } from '../../lib/backends/webgpu/node-provider.js'

/** Those that were opened since `watchDevices`. */
export const devices: GPUDevice[] = []

/** Whether there are adapters, and what is waited for before one is looked for. */
export const adapters: { absent: boolean; before: () => Promise<void> } = { absent: false, before: async () => {} }

export async function watchDevices(): Promise<void> {
  const gpu = await nodeGpu()
  const requestAdapter = gpu.requestAdapter.bind(gpu)
  gpu.requestAdapter = async (options) => {
    await adapters.before()
    const adapter = adapters.absent ? null : await requestAdapter(options)
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
export async function occupy(device: GPUDevice): Promise<void> {
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

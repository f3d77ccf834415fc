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

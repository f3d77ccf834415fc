// An engine whose GPU does not come to an end, beside one on the CPU; prints what each said as JSON.
import { createEngine } from '../../dist/esm/index.js'
import { devices, watchDevices } from '../../test/webgpu/devices.ts'
import { request } from './serving.mjs'

await watchDevices()
const cpu = await createEngine({ threads: 1 })
await cpu.loadModel()
const engine = await createEngine({ backend: 'webgpu', threads: 1, gpu: { timeoutMs: 300 } })
await engine.loadModel()
// Whatever has to be compiled is.
await engine.generate(request)
const device = devices.at(-1)
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
let ticks = 0
const timer = setInterval(() => ticks++, 10)
const error = await engine.generate(request).catch((error) => error)
clearInterval(timer)
const { text } = await cpu.generate(request)
process.stdout.write(JSON.stringify({ error, text, ticks }), () => process.exit(0))

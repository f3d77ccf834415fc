// An engine whose GPU does not come to an end, beside one on the CPU; prints what each said as JSON.
import { createEngine } from '../../dist/esm/index.js'
import { devices, occupy, watchDevices } from '../../test/webgpu/devices.ts'
import { request } from './serving.mjs'

await watchDevices()
const cpu = await createEngine({ threads: 1 })
await cpu.loadModel()
const engine = await createEngine({ backend: 'webgpu', threads: 1, gpu: { timeoutMs: 300 } })
await engine.loadModel()
// Whatever has to be compiled is.
await engine.generate(request)
await occupy(devices.at(-1))
let ticks = 0
const timer = setInterval(() => ticks++, 10)
const error = await engine.generate(request).catch((error) => error)
clearInterval(timer)
const { text } = await cpu.generate(request)
process.stdout.write(JSON.stringify({ error, text, ticks }), () => process.exit(0))

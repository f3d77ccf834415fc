// GPUs: every failure is a code at once, and nothing changes the backend by itself.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { GpuDevice } from '../../dist/esm/backends/webgpu/device.js'
import { words } from '../../dist/esm/backends/webgpu/launches/launch.js'
import { onNode } from '../../dist/esm/backends/webgpu/node-provider.js'
import { createEngine } from '../../dist/esm/index.js'
import { openBackend } from '../../dist/esm/kernels.js'
import { devices, watchDevices } from '../../test/webgpu/devices.ts'
import { root } from '../harness.mjs'
import { CannotInject } from './row.mjs'
import { request, runArguments, textOf } from './serving.mjs'

const covers = ['edge 1', 'pattern 3']
const noDriver = { VK_ICD_FILENAMES: '/nowhere/icd.json', VK_DRIVER_FILES: '/nowhere/icd.json' }
const one = { x: Float32Array.of(2), weight: Float32Array.of(1), epsilon: 0 }

export default {
  name: 'gpu',
  title: 'GPU',
  async begin() {
    const gpu = await openBackend('webgpu').catch((error) => {
      throw new CannotInject(`no WebGPU adapter here: ${error.code}`)
    })
    await watchDevices()
    const cpu = await createEngine({ threads: 1 })
    await cpu.loadModel()
    const { text } = await cpu.generate(request)
    return { gpu, cpu, text }
  },
  async end(shared) {
    shared?.gpu.dispose()
    await shared?.cpu.dispose()
  },
  rows: [
    {
      id: 'adapter-missing',
      covers: [...covers, 'S008 invalid device state'],
      inject: 'the Vulkan driver is taken away from a process that asks for the GPU',
      code: 'GPU_ADAPTER_UNAVAILABLE',
      at: ['cli'],
      recovery: 'no token comes; the CPU works in the same environment when it is asked for',
      async run(t, { text }) {
        const { stdout } = await t.cli(['run', ...runArguments, '--backend', 'webgpu'], { env: noDriver })
        t.check('nothing was computed', stdout === '')
        const cpu = await t.fine(['run', ...runArguments, '--backend', 'cpu'], { env: noDriver })
        t.check('the CPU works', textOf(cpu) === text)
      }
    },
    {
      id: 'cuda-missing',
      covers,
      inject: 'the CUDA backend is asked for where its addon is not',
      code: 'CUDA_DEVICE_FAILED',
      at: ['library', 'cli'],
      recovery: 'refused at once with what was tried; the process goes on on the CPU that it had',
      async run(t, { cpu, text }) {
        const env = { TIERED_MOE_CUDA_ADDON: '/nowhere/tiered_moe_cuda.node' }
        const { stdout } = await t.cli(['run', ...runArguments, '--backend', 'cuda'], { env })
        t.check('nothing was computed', stdout === '')
        Object.assign(process.env, env)
        await t.caught(createEngine({ backend: 'cuda' }))
        delete process.env.TIERED_MOE_CUDA_ADDON
        t.check('another engine goes on', (await cpu.generate(request)).text === text)
      }
    },
    {
      id: 'gpu-memory-budget',
      covers: [...covers, 'S008 insufficient memory', 'pattern 5'],
      inject: 'a model is loaded into 1 MiB of GPU memory',
      code: 'GPU_VRAM_EXHAUSTED',
      at: ['library', 'cli'],
      recovery: 'bytes required and available; what was held is free again, and the same device computes',
      async run(t) {
        const env = { TIERED_MOE__ENGINE__BACKEND: 'webgpu', TIERED_MOE__ENGINE__GPU__MEMORY: '1MiB' }
        const { error } = await t.cli(['run', ...runArguments], { env })
        t.check('the error says how much', error?.details.required > error?.details.available)
        const small = await openBackend('webgpu', { memory: '64KiB' })
        const x = new Float32Array(2 ** 15)
        await t.caught(small.upload(x))
        t.check('a smaller call works on it', (await small.rmsNorm(one))[0] === 1)
        small.dispose()
      }
    },
    {
      id: 'buffer-over-limit',
      covers,
      inject: 'an array of 2^40 bytes is asked of the device',
      code: 'GPU_LIMIT_EXCEEDED',
      at: ['library'],
      recovery: 'the limit by name; the device goes on',
      async run(t, { gpu }) {
        await t.caught(gpu.allocate('f32', 2 ** 38), { limit: 'maxBufferSize' })
        t.check('the device goes on', (await gpu.rmsNorm(one))[0] === 1)
      }
    },
    {
      id: 'bad-shader',
      covers,
      inject: "a shader that the driver's compiler refuses",
      code: 'GPU_SHADER_INVALID',
      at: ['library'],
      recovery: "the compiler's words are in the error; the device goes on",
      async run(t, { gpu }) {
        const device = await GpuDevice.open({
          ...onNode,
          shaders: () => '@compute @workgroup_size(1) fn main() { nothing(); }'
        })
        const launch = { shader: 'broken', defines: {}, workgroups: [1, 1, 1], params: words(1) }
        const buffer = await device.memory.allocate(16, 'a fault')
        const error = await t.caught(device.bind(launch, [{ buffer }]))
        t.check('what the compiler says', /nothing/.test(JSON.stringify(error.details?.compiler)))
        device.dispose()
        t.check('the GPU goes on', (await gpu.rmsNorm(one))[0] === 1)
      }
    },
    {
      id: 'device-lost',
      covers: [...covers, 'S008 invalid device state', 'S008 runtime: abort and restart'],
      inject: 'the device is destroyed in the middle of a generation',
      code: 'GPU_DEVICE_LOST',
      at: ['library'],
      recovery: 'engine.recover() opens it again and the same text comes; engines on the CPU do not notice',
      async run(t, { cpu, text }) {
        const engine = await createEngine({ backend: 'webgpu', threads: 1 })
        await engine.loadModel()
        const before = (await engine.generate(request)).text
        let heard = 0
        await t.caught(
          (async () => {
            for await (const _ of engine.createGenerator({ ...request, maxTokens: 100 }))
              if (++heard === 3) devices.at(-1).destroy()
          })()
        )
        t.check('some tokens came', heard >= 3)
        t.check('the CPU goes on', (await cpu.generate(request)).text === text)
        await engine.recover()
        t.check('the same text after it', (await engine.generate(request)).text === before)
        await engine.dispose()
      }
    },
    {
      id: 'no-fallback',
      covers: [...covers, 'S008 fatal: abort'],
      inject: 'the device is destroyed, and nobody recovers it',
      code: 'GPU_DEVICE_LOST',
      at: ['library'],
      recovery: 'every later request fails at once, and none is computed by the CPU',
      async run(t) {
        const engine = await createEngine({ backend: 'webgpu', threads: 1 })
        await engine.loadModel()
        devices.at(-1).destroy()
        for (let i = 0; i < 3; i++) await t.caught(engine.generate(request))
        t.check('the backend is what was asked for', engine.backend.name === 'webgpu')
        await engine.dispose()
      }
    },
    {
      id: 'endless-submit',
      covers: [...covers, 'edge 4', 'pattern 7'],
      inject: 'the GPU is kept busy for seconds by another shader, with 300 ms allowed',
      code: 'GPU_SUBMIT_TIMEOUT',
      at: ['library'],
      recovery: 'the event loop turns meanwhile, and an engine on the CPU of the same process has its text',
      async run(t, { text }) {
        // A process of its own, which is left: nothing can stop a GPU.
        const { stdout, stderr, status } = spawnSync(
          process.execPath,
          ['--import', join(root, 'bench/faults/typescript.mjs'), join(root, 'bench/faults/endless-submit.mjs')],
          { encoding: 'utf8', timeout: 60_000 }
        )
        if (status !== 0) throw new TypeError(`${status}: ${stderr.slice(-500)}`)
        const told = JSON.parse(stdout)
        t.saw(told.error)
        t.check('the CPU goes on', told.text === text)
        t.check(`the event loop turned ${told.ticks} times`, told.ticks > 5)
      }
    }
  ]
}

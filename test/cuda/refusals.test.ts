/** What `backend: 'cuda'` cannot do is refused with a code, and nothing has changed. */
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { convertModel, createEngine } from 'tiered-moe'
import { openBackend } from 'tiered-moe/kernels'
import { command, notBuilt } from '../cli/command.js'
import { embedded } from '../fixtures/package.js'
import { openCudaEngines } from './engines.js'

t.test('settings of WebGPU', async (t) => {
  await t.rejects(createEngine({ backend: 'cuda', gpu: { memory: '1GiB' } }), {
    code: 'VALIDATION_ERROR',
    details: { path: 'gpu' }
  })
  await t.rejects(openBackend('cuda', { memory: '1GiB' } as never), {
    code: 'VALIDATION_ERROR',
    details: { path: 'memory', allowed: 'device' }
  })
})

const engines = await openCudaEngines(t)
const folder = t.testdir({})

if (engines) {
  const { cuda } = engines
  const model = join(folder, 'tiered')
  const request = { model: 'tiny', prompt: 'ROMEO:', temperature: 0, maxTokens: 6, ignoreEos: true }
  await convertModel({ from: embedded, to: model })

  t.test('the doctor asks the device', { skip: notBuilt }, async (t) => {
    const adapter = async (devices: string) => {
      // What V8 leaves behind is not this test's.
      const env = {
        TIERED_MOE_EMULATED_DEVICES: devices,
        ASAN_OPTIONS: 'detect_stack_use_after_return=0:detect_leaks=0'
      }
      const { adapters } = JSON.parse((await command(['doctor', '--json'], { env })).stdout)
      return adapters.find(({ name }: { name: string }) => name === 'cuda')
    }
    t.match(await adapter('1'), { available: true, note: cuda.backend.device! })
    if (cuda.backend.device === 'host emulation')
      t.match(await adapter('0'), { available: false, note: /no CUDA device 0/ })
  })

  t.test('bringing experts ahead of their route', async (t) => {
    const loading = cuda.loadModel({ id: 'tiny', model, prefetch: 'on' })
    await t.rejects(loading, { code: 'VALIDATION_ERROR', details: { path: 'prefetch' } })
    t.equal(cuda.backend.gpu!.memoryBytes, 0)
  })

  t.test('changing experts', async (t) => {
    await cuda.loadModel({ id: 'tiny', model })
    const { text } = await cuda.generate(request)
    for (const change of [
      { action: 'merge', layer: 0, experts: [1, 2] },
      { action: 'reinitialise', layer: 1, expert: 0, seed: 7 }
    ] as const) {
      const error = await cuda.swapExperts('tiny', [change]).catch((reason) => reason)
      t.match(error, { code: 'VALIDATION_ERROR', details: { argument: 'backend' } }, change.action)
      t.match(error.message, 'the backend cpu or webgpu', 'it says what can')
    }
    t.equal((await cuda.generate(request)).text, text)
    t.same(await cuda.persistExperts('tiny'), [], 'there is nothing to keep')
    t.same(
      readdirSync(model, { recursive: true, encoding: 'utf8' }).filter((path) => /versions./.test(path)),
      []
    )
  })
}

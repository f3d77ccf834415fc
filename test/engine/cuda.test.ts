/** `backend: 'cuda'` where its addon is not there: a typed error that says what to install, and no other backend instead. */
import t from 'tap'
import { createEngine } from 'tiered-moe'
import { openBackend } from 'tiered-moe/kernels'

t.test('without the addon', async (t) => {
  const before = process.env.TIERED_MOE_CUDA_ADDON
  process.env.TIERED_MOE_CUDA_ADDON = '/nowhere/tiered_moe_cuda.node'
  t.teardown(() => {
    if (before === undefined) delete process.env.TIERED_MOE_CUDA_ADDON
    else process.env.TIERED_MOE_CUDA_ADDON = before
  })
  for (const open of [() => createEngine({ backend: 'cuda' }), () => openBackend('cuda')]) {
    const error = await open().catch((reason) => reason)
    t.match(error, {
      code: 'CUDA_DEVICE_FAILED',
      severity: 'fatal',
      details: {
        install: `@tiered-moe/${process.platform}-${process.arch}-cuda`,
        tried: [{ request: '/nowhere/tiered_moe_cuda.node', reason: /Cannot find module/ }]
      }
    })
    t.match(error.message, /npm run build:cuda.*NVIDIA driver/, 'it says what to install')
  }
  const engine = await createEngine()
  t.equal(engine.state, 'warm', 'other engines are not concerned')
  await engine.dispose()
})

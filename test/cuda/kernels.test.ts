/**
 * `openBackend('cuda')` beyond the cases that it shares with the CPU (test/kernels and test/golden with TIERED_MOE_TEST_BACKEND=cuda): memory, its
 * lack, calls that are made at once, and what it says of itself.
 */
import t from 'tap'
import { openBackend } from 'tiered-moe/kernels'
import { floats, stream } from '../kernels/values.js'
import { openCudaKernels } from './engines.js'

const cuda = await openCudaKernels(t)

if (cuda) {
  const cpu = openBackend('cpu')
  t.teardown(() => cpu.dispose())
  const next = stream('cuda')
  const requests = Array.from({ length: 12 }, (_, i) => ({
    x: floats((i + 1) * 40, next),
    weight: floats(40, next),
    epsilon: 1e-5
  }))

  t.test('calls that are made at once', async (t) => {
    const results = await Promise.all(requests.map((request) => cuda.rmsNorm(request)))
    t.same(
      results,
      requests.map((request) => cpu.sync.rmsNorm(request))
    )
    t.equal(cuda.memory.usedBytes, 0, 'a call gives back what it took')
    t.ok(cuda.memory.availableBytes > 0)
    t.ok(cuda.device)
  })

  t.test('a request that is refused', async (t) => {
    const { x } = requests[0]!
    await t.rejects(cuda.rmsNorm({ x, weight: x.subarray(1), epsilon: 0 }), { code: 'VALIDATION_ERROR' })
  })

  t.test('too little memory', async (t) => {
    if (cuda.device !== 'host emulation') return
    const request = requests[11]!
    process.env.TIERED_MOE_EMULATED_MEMORY = '1000'
    const error = await cuda.rmsNorm(request).catch((reason) => reason)
    delete process.env.TIERED_MOE_EMULATED_MEMORY
    t.match(error, { code: 'GPU_VRAM_EXHAUSTED', details: { required: 1920, available: 1000 } })
    t.equal(cuda.memory.usedBytes, 0)
    t.same(await cuda.rmsNorm(request), cpu.sync.rmsNorm(request), 'the next call has it again')
  })
}

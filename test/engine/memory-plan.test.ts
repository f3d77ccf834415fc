import t from 'tap'
import { checkMemory, planMemory } from '../../lib/memory-plan.js'
import { readModel } from '../../lib/model/index.js'
import { moeModel } from '../fixtures/moe-model.js'

const { file } = moeModel({ layers: 3, kvHeads: 2, headDim: 16, contextLength: 1024, type: 'F32' })
const { plan } = readModel(file)
const request = {
  kvType: 'f32',
  contextLength: 1024,
  maxBatchTokens: 512,
  threads: 2,
  readers: 4,
  stepBytes: (batch: number, threads: number) => 5000 * batch + 1000 * threads
} as const

t.test('the parts', async (t) => {
  const { weights, keyValues, arena, required } = planMemory(file.tensors, plan, request)
  const stored = file.tensors.reduce((sum, { bytes }) => sum + bytes, 0)
  t.ok(weights >= stored && weights < stored * 1.1, 'matrices have whole groups of rows')
  t.equal(keyValues, 3 * 2 * (16 + 16) * 4 * 1024)
  const step = request.stepBytes(request.maxBatchTokens, request.threads)
  t.ok(arena > step)
  t.ok(planMemory(file.tensors, plan, { ...request, readers: 0 }).arena < arena, 'threads that read hold memory')
  t.equal(required, weights + keyValues + arena)
  t.equal(planMemory(file.tensors, plan, { ...request, kvType: 'f16' }).keyValues, keyValues / 2)
})

t.test('tied embeddings are counted twice', async (t) => {
  const tied = moeModel({ tied: true }).file
  const embedding = tied.tensors.find(({ name }) => name === 'token_embd.weight')!.bytes
  const stored = tied.tensors.reduce((sum, { bytes }) => sum + bytes, 0)
  const { weights } = planMemory(tied.tensors, readModel(tied).plan, request)
  t.ok(weights >= stored + embedding && weights < (stored + embedding) * 1.1)
})

t.test('a refusal says how much is missing, and what would fit does fit', async (t) => {
  const { required, weights, arena } = planMemory(file.tensors, plan, request)
  t.equal(checkMemory(file.tensors, plan, request, required).required, required)
  t.throws(() => checkMemory(file.tensors, plan, request, required - 1), {
    code: 'RESOURCE_MEMORY_EXHAUSTED',
    retryable: true,
    details: { resourceInfo: { required, available: required - 1, unit: 'bytes' }, weights }
  })
  for (const available of [required - 1, weights + arena + 10_000, weights, weights / 2, 0]) {
    const error = t.throws(() => checkMemory(file.tensors, plan, request, available)) as unknown as {
      details: { alternatives: { change: string; value: number | string; required: number }[] }
    }
    for (const { change, value, required } of error.details.alternatives) {
      t.ok(required <= available, `${change} ${value}: ${required} of ${available}`)
      if (change === 'weightType') continue
      const changed = { ...request, [change]: value }
      t.ok(planMemory(file.tensors, plan, changed).required <= available, `${change} ${value} fits`)
    }
    if (available === required - 1) {
      t.same(
        error.details.alternatives.map(({ change }) => change),
        ['contextLength', 'kvType', 'maxBatchTokens', 'weightType', 'weightType']
      )
    }
    if (available === 0) t.same(error.details.alternatives, [])
  }
})

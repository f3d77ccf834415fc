import t from 'tap'
import { planExperts } from '../../lib/expert-budget.js'
import { planMemory } from '../../lib/memory-plan.js'
import { readModel } from '../../lib/model/index.js'
import { byteSize, isByteSize } from '../../lib/validation.js'
import { moeModel } from '../fixtures/moe-model.js'

const MiB = 2 ** 20
// The tensors of a small model, as if they were large.
const small = moeModel({ layers: 3, experts: 64, contextLength: 16384, type: 'F32' }).file
const { plan } = readModel(small)
const file = { tensors: small.tensors.map((tensor) => ({ ...tensor, bytes: tensor.bytes * 512 })) }
const stepBytes = (batch: number, threads: number) => 20_000 * batch + 1000 * threads
const request = { kvType: 'f16', contextLength: 4096, maxBatchTokens: 64, threads: 2, stepBytes } as const
const fits = planMemory(file.tensors, plan, request).required

t.test('what fits stays whole', async (t) => {
  const { experts, ...rest } = planExperts(file.tensors, plan, request, fits)
  t.match(rest, { kept: 'all', chosenBy: 'available memory' })
  t.equal(experts.budget, experts.all)
  t.equal(experts.count, 3 * 64)
})

t.test('what does not fit gets a budget out of the available memory, and leaves some of it', async (t) => {
  const chosen = planExperts(file.tensors, plan, request, fits - MiB)
  t.match(chosen, { kept: 'budget', chosenBy: 'available memory' })
  const { experts, base, keyValues, arena, memory } = chosen
  t.equal(experts.budget % experts.slot, 0)
  t.ok(base + arena + experts.budget <= memory && experts.budget > keyValues)
  t.ok(memory <= fits - 256 * MiB)
  const little = base + keyValues + arena + 2 * experts.slot + 256 * MiB
  t.throws(() => planExperts(file.tensors, plan, request, little), { code: 'RESOURCE_MEMORY_EXHAUSTED' })
})

t.test('a budget that is asked for is shared out', async (t) => {
  const memory = fits / 2
  const chosen = planExperts(file.tensors, plan, { ...request, contextLength: 16384, memory }, Number.MAX_SAFE_INTEGER)
  t.match(chosen, { kept: 'budget', chosenBy: 'caller', memory })
  const { experts, base, keyValues, arena } = chosen
  t.equal(keyValues, planMemory(file.tensors, plan, request).keyValues, 'of 4096 positions, whatever the context')
  const used = base + arena + experts.budget
  t.ok(used <= memory && used + experts.slot > memory, 'experts have what the KV cache does not use')
  t.equal(chosen.keyValuesBeside, memory - used)

  const least = base + keyValues + arena + 3 * experts.slot
  t.ok(
    planExperts(file.tensors, plan, { ...request, memory: least }, 0).experts.budget >=
      3 * experts.slot + keyValues - experts.slot
  )
  const error = t.throws(() => planExperts(file.tensors, plan, { ...request, memory: least - 1 }, 0)) as unknown as {
    details: { alternatives: { change: string; value: number }[]; resourceInfo: { required: number } }
  }
  t.match(error, { code: 'RESOURCE_BUDGET_TOO_SMALL', details: { resourceInfo: { required: least } } })
  t.ok(error.details.alternatives.length > 2)
  for (const { change, value } of error.details.alternatives) {
    const changed = { ...request, memory: least - 1, [change]: value }
    t.equal(planExperts(file.tensors, plan, changed, 0).kept, 'budget', `${change} ${value}`)
  }
})

t.test('sizes as text', async (t) => {
  t.equal(byteSize('2GiB'), 2 ** 31)
  t.equal(byteSize('1.5 mb'), 1.5e6)
  t.equal(byteSize('512k'), 512_000)
  t.equal(byteSize('77'), 77)
  for (const bad of ['GiB', '1 2', '-1', '1e9', '0', 0, -1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, null, {}]) {
    t.notOk(isByteSize(bad), String(bad))
  }
})

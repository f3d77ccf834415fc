/** What a model takes of a device's memory: the plan alone, with the figures and the ways out of a refusal. */
import t from 'tap'
import { expertScratchBytes } from '../../lib/backends/webgpu/experts/scratch.js'
import { stepBytes as webgpuStepBytes } from '../../lib/backends/webgpu/model/step-bytes.js'
import { planOwnMemory, refusedMemory, warmMemory } from '../../lib/engine/own-memory.js'
import { createError } from '../../lib/errors/index.js'
import { readModel } from '../../lib/model/index.js'
import { moeModel } from '../fixtures/moe-model.js'

const { file } = moeModel({ layers: 3, experts: 8, kvHeads: 2, headDim: 16, contextLength: 1024, type: 'F32' })
const { plan } = readModel(file)
const model = 'm'
const request = { model, kvType: 'f32', contextLength: 1024, maxBatchTokens: 512, memory: undefined } as const

const stepBytes = (batch: number): number => webgpuStepBytes(plan, batch, 256)
const own = (available: number) => ({
  device: 'a device',
  available: () => available,
  stepBytes: (_: unknown, batch: number) => stepBytes(batch),
  counts: () => ({ submits: 0, waitedMs: 0, memoryBytes: 0, buffers: 0 })
})
const plans = (available: number, changed: object = {}) =>
  planOwnMemory(file.tensors, plan, { ...request, ...changed }, own(available))
type Refusal = Error & {
  code: string
  details: {
    required: number
    available: number
    resourceInfo: { required: number; available: number }
    alternatives: { change: string; value: number; required: number }[]
  }
}
const refusal = (available: number, changed: object = {}): Refusal => {
  try {
    plans(available, changed)
  } catch (error) {
    return error as Refusal
  }
  throw new Error('it fits')
}

t.test('all of it, with what the experts of a step go through', async (t) => {
  const { kept, base, keyValues, arena, experts } = plans(2 ** 40)
  t.equal(kept, 'all')
  t.equal(experts.count, 24)
  t.equal(experts.all, experts.certain)
  t.ok(expertScratchBytes(plan, 512) > 0)
  t.ok(arena >= stepBytes(512))
  t.ok(stepBytes(512) > expertScratchBytes(plan, 512) + 512 * 4 * 64, 'the scratch of experts is in it')
  const needed = base + keyValues + arena + experts.all
  t.equal(plans(needed).kept, 'all')
  const { code, details } = refusal(needed - 1)
  t.equal(code, 'GPU_VRAM_EXHAUSTED')
  t.match(details, { model, device: 'a device', available: needed - 1 })
  t.ok(details.required <= needed && details.required > needed - 1 - experts.count * 4096)
  const [first] = details.alternatives
  t.equal(first!.change, 'gpuMemory')
  for (const { change, value, required } of details.alternatives) {
    t.ok(required <= needed - 1, `${change} ${value}`)
    if (change === 'gpuMemory') t.equal(plans(needed - 1, { memory: value }).kept, 'budget', 'it works with that')
  }
  t.same(refusal(1000).details.alternatives, [], 'nothing works with so little')
})

t.test('a budget is kept to, and one that is too small says the least', async (t) => {
  const { base, keyValues, arena, experts } = plans(2 ** 40)
  for (const slots of [2, 7, 23.5, 24]) {
    const gpuMemory = Math.floor(base + keyValues + arena + slots * experts.slot)
    const planned = plans(2 ** 40, { memory: gpuMemory })
    t.equal(Math.floor(planned.experts.certain / experts.slot), Math.floor(slots))
    t.ok(planned.base + planned.keyValues + planned.arena + planned.experts.certain <= gpuMemory)
  }
  const { code, details } = refusal(2 ** 40, { memory: base })
  t.equal(code, 'RESOURCE_BUDGET_TOO_SMALL')
  const [first] = details.alternatives
  t.match(first, { change: 'gpuMemory', value: details.resourceInfo.required })
  t.equal(plans(2 ** 40, { memory: first!.value }).kept, 'budget')
  t.throws(() => plans(2 ** 40, { memory: first!.value - 1 }), { code: 'RESOURCE_BUDGET_TOO_SMALL' })
  t.notOk(details.alternatives.some(({ change }) => change === 'memory' || change === 'threads'))
})

t.test('a budget beyond what the device has', async (t) => {
  const { base, keyValues, arena, experts } = plans(2 ** 40)
  const needed = base + keyValues + arena + experts.all
  t.equal(plans(needed, { memory: 2 ** 40 }).experts.certain, experts.all, 'it is not all taken')
  const { code, details } = refusal(needed - 1, { memory: 2 ** 40 })
  t.equal(code, 'GPU_VRAM_EXHAUSTED')
  t.match(details, { required: needed, available: needed - 1, alternatives: [{ change: 'gpuMemory' }] })
})

t.test('a part that the device refused to a load that was planned', async (t) => {
  const memory = plans(Number.MAX_SAFE_INTEGER)
  const required = memory.base + memory.keyValues + memory.arena + memory.experts.all
  const least = refusal(2 ** 40, { memory: 0 }).details.alternatives[0]!.value
  const refused = (part: number, current: number | null, available: number) => {
    const resourceInfo = { required: part, available: 0, current, limit: null, unit: 'bytes' as const }
    const error = createError('GPU_VRAM_EXHAUSTED', 'refused', { model: null, required: part, resourceInfo })
    return refusedMemory(error, memory, file.tensors, plan, request, own(available)) as Refusal
  }
  const { all } = memory.experts
  const offered = [{ change: 'gpuMemory', value: least, required: least }]
  const slabs = refused(all, required - all, Number.MAX_SAFE_INTEGER)
  t.equal(slabs.code, 'GPU_VRAM_EXHAUSTED')
  const whole = { model, device: 'a device', required }
  t.match(slabs.details, { ...whole, available: required - all, alternatives: offered })
  t.match(slabs.details.resourceInfo, { required, available: required - all })
  const early = refused(memory.base, 0, Number.MAX_SAFE_INTEGER)
  t.match(early.details, { ...whole, available: 0, alternatives: [] }, 'even the base weights')
  t.match(refused(all, 0, least).details, { ...whole, available: least, alternatives: offered }, 'others have the rest')
  t.same(refused(all, 0, least - 1).details.alternatives, [])
  t.match(refused(all, null, 2 ** 40).details, { available: 2 ** 40, alternatives: offered }, 'a device that says it')
  const other = createError('CANCELLED', 'no', { method: 'loadModel' })
  t.equal(refusedMemory(other, memory, file.tensors, plan, request, own(0)), other)
})

t.test('host memory beside it', async (t) => {
  const whole = plans(2 ** 40)
  const { slot, all } = whole.experts
  t.equal(warmMemory(whole, undefined, 2 ** 40, 2), 11 * slot, 'what a load reads them through')
  const part = { ...whole, kept: 'budget' as const }
  t.equal(warmMemory(part, undefined, 2 ** 40, 2), all)
  t.equal(warmMemory(part, 5 * slot, 2 ** 40, 2), 5 * slot)
  t.equal(warmMemory(part, undefined, 2 ** 28 + 3 * slot, 2), 3 * slot, 'the rest is left to others')
})

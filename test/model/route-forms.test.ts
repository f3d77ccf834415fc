/** Whole small models of every route form against plain loops in float64; the same bits in chunks, on every instruction set, with a store. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { isEngineError } from 'tiered-moe'
import type { Plan } from '../../lib/model/plan.js'
import { type ExpertOptions, type Isa, native } from '../../lib/native.js'
import { type RoutedForm, routedForms, routedLogits, routedModel } from '../fixtures/routed-model.js'
import { naiveForward } from './naive-forward.js'

const tokens = Int32Array.from({ length: 24 }, (_, i) => (i * 37 + 5) % 270)

interface Opening {
  isa?: Isa
  threads?: number
  experts?: ExpertOptions
}

/** A model of the addon, ended after the test. */
async function open(test: Test, path: string, plan: Plan, { isa, threads = 2, experts }: Opening = {}) {
  const addon = native()
  const cancel = addon.createCancel()
  const file = await addon.openGguf(path)
  const backend = addon.createBackend({ threads, isa: isa ?? 'auto' })
  const options = { maxBatchTokens: 32, ...(experts && { experts }) }
  const model = await backend.loadModel(file, plan, options, cancel)
  test.teardown(async () => {
    await model.dispose()
    backend.dispose()
    file.close()
  })
  return model
}

const write = (test: Test, form: RoutedForm) => {
  const made = routedModel(form)
  const path = join(test.testdir(), 'routed.gguf')
  writeFileSync(path, made.bytes)
  return { ...made, path }
}

const isas: Isa[] = ['scalar', 'avx2', 'avx512', 'neon']
const isHere = (isa: Isa): boolean => {
  try {
    native().createBackend({ threads: 1, isa }).dispose()
    return true
  } catch (error) {
    if (isEngineError(error) && error.code === 'ISA_UNSUPPORTED') return false
    throw error
  }
}

for (const [name, form] of Object.entries(routedForms)) {
  t.test(name, async (test) => {
    const { path, plan, read } = write(test, form)
    const whole = await routedLogits(await open(test, path, plan), plan, tokens)
    const expected = naiveForward(plan, read, [...tokens]).flat()
    const scale = Math.max(...expected.map(Math.abs))
    const worst = expected.reduce((most, value, at) => Math.max(most, Math.abs(value - whole[at]!)), 0)
    test.ok(worst < 2e-5 * scale, `the largest difference is ${worst.toExponential(1)} of ${scale.toFixed(1)}`)

    const same = (other: Float32Array, what: string) =>
      test.ok(Buffer.from(other.buffer).equals(Buffer.from(whole.buffer)), what)
    for (const isa of isas.filter(isHere))
      same(
        await routedLogits(await open(test, path, plan, { isa, threads: 1 }), plan, tokens, { chunk: 5 }),
        `${isa}, in fives`
      )
    const store = { policy: 'adaptive', seed: 1, ioThreads: 2, prefetch: 'on' } as const
    const experts = { ...store, budgetBytes: 800_000, kvReserveBytes: 2 ** 30 } // some 20 of 48 experts
    same(
      await routedLogits(await open(test, path, plan, { experts }), plan, tokens, { chunk: 7 }),
      'with a store and experts read ahead'
    )
  })
}

t.test('a TierSet of groups that may lack experts is refused, another one routes within it', async (test) => {
  const { path, plan, read } = write(test, routedForms['DeepSeek-V3']!)
  const model = await open(test, path, plan)
  const mask = (on: (e: number) => boolean) => Uint8Array.from({ length: 48 }, (_, i) => Number(on(i % 16)))
  const refused = (on: (e: number) => boolean, enabled: number) =>
    test.throws(() => model.checkEnabled(mask(on)), {
      code: 'ROUTING_TOO_FEW_EXPERTS',
      details: { layer: 0, enabled, k: 4 }
    })
  refused((e) => e < 3, 3)
  refused((e) => e % 4 === 0 || e < 4, 7) // the two groups that stay may have two of them
  const on = (e: number) => e % 4 < 2 || e > 13
  model.checkEnabled(mask(on))
  const logits = await routedLogits(model, plan, tokens, { enabled: mask(on) })
  const expected = naiveForward(plan, read, [...tokens], (_, e) => on(e)).flat()
  const worst = expected.reduce((most, value, at) => Math.max(most, Math.abs(value - logits[at]!)), 0)
  test.ok(worst < 2e-5 * Math.max(...expected.map(Math.abs)))
})

t.test('a plan that does not fit together', async (test) => {
  const { path, plan } = write(test, routedForms.everything!)
  const edited = (change: object): Plan => ({
    ...plan,
    ops: plan.ops.map((op) => (op.op === 'route' ? { ...op, ...change } : op))
  })
  const route = plan.ops.find((op) => op.op === 'route')!
  const bad: Record<string, object> = {
    'a selection bias of a softmax': { form: 'softmax_topk' },
    'two best of a softmax': {
      form: 'topk_softmax',
      selectionBias: undefined,
      groups: { count: 2, used: 1, score: 'top2' }
    },
    'groups that do not divide': { groups: { count: 3, used: 1, score: 'max' } },
    'no groups': { groups: { count: 0, used: 1, score: 'max' } },
    'groups that hold too few': { groups: { count: 8, used: 1, score: 'max' } },
    'a group score that is none': { groups: { count: 2, used: 1, score: 'mean' } },
    'a bias that is a router': { bias: route.weight },
    'biases in each other’s place': { bias: route.selectionBias, selectionBias: route.bias },
    'a bias that is not there': { bias: 'blk.9.ffn_gate_inp.bias' },
    'a scale that is no number': { scale: Number.NaN }
  }
  for (const [name, change] of Object.entries(bad))
    await test.rejects(open(test, path, edited(change)), { code: 'VALIDATION_ERROR' }, name)
})

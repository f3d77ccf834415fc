/** Routes with biases, sigmoids, groups and scales on the GPU, as on the CPU; whole small models of each form. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { openBackend } from 'tiered-moe/kernels'
import { GpuDevice } from '../../lib/backends/webgpu/device.js'
import { WebGpuBackend } from '../../lib/backends/webgpu/model/backend.js'
import { onNode } from '../../lib/backends/webgpu/node-provider.js'
import { type ExpertOptions, type NativeBackend, native } from '../../lib/native.js'
import { routedForms, routedLogits, routedModel } from '../fixtures/routed-model.js'
import { extras, formCases, formMisfits, formRequest } from '../kernels/route-form-cases.js'
import { bound, tolerances } from '../kernels/tolerance.js'
import { openGpu } from './adapter.js'
import { sameRoutes } from './routes.js'

const gpu = await openGpu(t)

if (gpu) {
  const cpu = openBackend('cpu')
  t.teardown(() => cpu.dispose())
  const same = sameRoutes(cpu, gpu)
  // each is a shader of its own, which takes a driver that computes on the CPU some seconds
  const some = extras.filter(({ form, bias, selectionBias, groups }) =>
    form === 'sigmoid' ? bias === selectionBias && (groups === 'top2') === bias : bias !== (groups === 'max')
  )

  t.test('every combination', async (test) => {
    for (const { label, request } of formCases(gpu, some)) {
      const began = performance.now()
      await same(test, label, request)
      test.comment(`${label} ${(performance.now() - began).toFixed(0)}`)
    }
  })

  t.test('masks and ties', async (test) => {
    const shape = { experts: 24, k: 4, width: 16, groups: [6, 2] as [number, number] }
    const masks = [(e: number) => e % 4 !== 1, (e: number) => e >= 8, (e: number) => e % 4 < 2]
    const enabled = Uint8Array.from(masks.flatMap((on) => Array.from({ length: 24 }, (_, e) => Number(on(e)))))
    for (const own of some) {
      const request = { ...formRequest(gpu, shape, own, 'masks'), enabled, maskOf: Uint32Array.of(2, 0xffffffff, 1, 0) }
      await same(test, 'masks', request)
      await same(test, 'ties', { ...request, states: new Float32Array(64) })
    }
  })

  t.test('biases on the device', async (test) => {
    const own = { form: 'sigmoid', bias: true, selectionBias: true, groups: 'top2' } as const
    const request = formRequest(gpu, { experts: 12, k: 4, width: 16, groups: [3, 2] }, own, 'device')
    const expected = cpu.sync.route(request)
    const { bias, selectionBias } = request
    const got = await gpu.route({
      ...request,
      bias: await gpu.upload(bias!),
      selectionBias: await gpu.upload(selectionBias!)
    })
    test.same(got.ids, expected.ids)
  })

  t.test('refused', async (test) => {
    const { good, bad } = formMisfits(gpu)
    await same(test, 'sound', good)
    for (const [name, more] of Object.entries(bad))
      await test.rejects(gpu.route({ ...good, ...more }), { code: 'VALIDATION_ERROR' }, name)
    const few = { ...good, enabled: Uint8Array.from({ length: 12 }, (_, e) => Number(e % 4 === 0)) }
    await test.rejects(gpu.route({ ...few, k: 3 }), { code: 'VALIDATION_ERROR', details: { level: 'group' } })
  })

  t.test('whole models', async (test) => {
    const addon = native()
    const store = { policy: 'adaptive', seed: 1, ioThreads: 2, prefetch: 'off' } as const
    const host = addon.createBackend({ threads: 2, isa: 'auto' })
    const open = () => GpuDevice.open(onNode)
    const device = await open()
    test.teardown(() => {
      device.dispose()
      host.dispose()
    })
    const onGpu = new WebGpuBackend(device, host, addon, open)
    const tokens = Int32Array.from({ length: 20 }, (_, i) => (i * 37 + 5) % 270)
    const path = join(test.testdir(), 'routed.gguf')
    const experts: ExpertOptions = { ...store, budgetBytes: 2 ** 30, kvReserveBytes: 2 ** 30 }
    for (const [name, form] of Object.entries(routedForms)) {
      const { bytes, plan } = routedModel(form)
      writeFileSync(path, bytes)
      const logits = async (backend: NativeBackend) => {
        const file = await addon.openGguf(path)
        const model = await backend.loadModel(file, plan, { maxBatchTokens: 32, experts }, addon.createCancel())
        const out = await routedLogits(model, plan, tokens, { chunk: 9 })
        // enough of all, too few where one or two groups stay
        const few = Uint8Array.from({ length: 48 }, (_, i) => Number(i % 16 < 2 || i % 4 === 0))
        const refusal = { code: 'ROUTING_TOO_FEW_EXPERTS', details: { layer: 0, enabled: 5, k: 4 } }
        if (form.groups && form.groups.used < 3) test.throws(() => model.checkEnabled(few), refusal)
        else model.checkEnabled(few)
        await model.dispose()
        file.close()
        return out
      }
      const [got, expected] = [await logits(onGpu), await logits(host)]
      const scale = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
      const worst = expected.reduce((most, value, i) => Math.max(most, Math.abs(value - got[i]!)), 0)
      test.ok(worst <= bound(tolerances.modelFloat, scale, 1), `${name}: ${worst} of ${scale}`)
    }
  })
}

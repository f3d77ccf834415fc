/** Small models of every route form on CUDA: the bits of the CPU's logits. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { cudaNative, type NativeAddon, native } from '../../lib/native.js'
import { routedForms, routedLogits, routedModel } from '../fixtures/routed-model.js'
import { openCudaEngines } from './engines.js'

const engines = await openCudaEngines(t)
const tokens = Int32Array.from({ length: 20 }, (_, i) => (i * 37 + 5) % 270)

if (engines) {
  for (const [name, form] of Object.entries(routedForms)) {
    t.test(name, async (test) => {
      const { bytes, plan } = routedModel(form)
      const path = join(test.testdir(), 'routed.gguf')
      writeFileSync(path, bytes)
      const logits = async (addon: NativeAddon) => {
        const file = await addon.openGguf(path)
        const backend = addon.createBackend({ threads: 2, isa: 'auto' })
        const model = await backend.loadModel(file, plan, { maxBatchTokens: 32 }, addon.createCancel())
        const out = await routedLogits(model, plan, tokens, { chunk: 9, addon })
        await model.dispose()
        backend.dispose()
        file.close()
        return Buffer.from(out.buffer)
      }
      test.ok((await logits(cudaNative())).equals(await logits(native())))
    })
  }
}

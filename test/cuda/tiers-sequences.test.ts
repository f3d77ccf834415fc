/** Tiers on CUDA with several sequences: their KV caches and the slots of the experts share one budget. */
import t from 'tap'
import type { Engine, EngineError } from 'tiered-moe'
import { checkCounts, logitBits } from '../fixtures/device-tiers.js'
import { contextLength, openTiered } from './tiered.js'

const tiered = await openTiered(t)

if (tiered) {
  const { cuda, cpu, expected, gpuMemory, keyValues, load, slotBytes } = tiered

  t.test('what the KV cache of more sequences takes is what slots had', async (t) => {
    const prompts = [1, 2, 3].map((first) => Array.from({ length: 130 }, (_, i) => (i * 37 + first) % 200))
    /** Texts of requests together, or what they failed with, and the most that the GPU's memory was meanwhile. */
    const together = async (engine: Engine, model: string, some = prompts) => {
      let held = 0
      const generate = async (promptTokens: number[]) => {
        let text = ''
        const request = { model, promptTokens, maxTokens: 4, temperature: 0, ignoreEos: true }
        for await (const item of engine.createGenerator(request)) {
          text += item.text
          held = Math.max(held, cuda.backend.gpu!.memoryBytes)
        }
        return text
      }
      const done = await Promise.all(some.map((prompt) => generate(prompt).catch((error: EngineError) => error)))
      return { held, done }
    }
    await cpu.loadModel({ id: 'whole', contextLength })
    const { done: texts } = await together(cpu, 'whole')
    await cpu.unloadModel('whole')

    // On a device that is full the smaller slab finds no room beside the larger one.
    for (const all of cuda.backend.device === 'host emulation' ? [undefined, gpuMemory(40)] : [undefined]) {
      if (all) process.env.TIERED_MOE_EMULATED_MEMORY = String(all)
      await load({ id: 'several', gpuMemory: gpuMemory(40), cachePolicy: 'lru' })
      const { held, done } = await together(cuda, 'several')
      t.same(done, texts)
      t.ok(held <= gpuMemory(40), `${held} bytes of ${gpuMemory(40)}`)
      const { budgetBytes } = cuda.modelStats('several').experts!
      t.ok(budgetBytes <= 40 * slotBytes - keyValues / 2, `${budgetBytes / slotBytes} slots are left`)
      t.same(await logitBits(cuda, 'several'), expected.logits)
      await checkCounts(t, cuda, 'several')
      await cuda.unloadModel('several')
      delete process.env.TIERED_MOE_EMULATED_MEMORY
    }

    // Two slots are the least.
    await load({ id: 'few', gpuMemory: gpuMemory(4) })
    const few = await together(cuda, 'few')
    t.ok(few.held <= gpuMemory(4))
    const failures = few.done.filter((answer) => typeof answer !== 'string')
    t.ok(failures.length > 0 && failures.length < prompts.length, `${failures.length} find no room, the others go on`)
    for (const { code, details } of failures) {
      const [{ change, value }] = details.alternatives as [{ change: string; value: number }]
      t.same([code, change], ['GPU_VRAM_EXHAUSTED', 'gpuMemory'])
      t.ok(value > gpuMemory(4) && details.resourceInfo!.required! > details.resourceInfo!.available)
    }
    for (const [i, answer] of few.done.entries()) if (typeof answer === 'string') t.equal(answer, texts[i])
    t.same((await together(cuda, 'few', prompts.slice(0, 1))).done, texts.slice(0, 1), 'alone each has room')
    await cuda.unloadModel('few')
    t.equal(cuda.backend.gpu!.memoryBytes, 0)
  })
}

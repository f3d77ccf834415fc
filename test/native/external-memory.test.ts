/** V8 hears of a part of what the addon holds: the whole of a model or of a long prompt would each time make it collect all garbage. */
import { constants, PerformanceObserver } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import type * as OpenModel from '../../lib/engine/open-model.js'
import type { native as Native } from '../../lib/native.js'
import { built, embedded } from '../fixtures/package.js'

const { native } = (await built('native.js')) as { native: typeof Native }
const { openModel } = (await built('engine/open-model.js')) as typeof OpenModel

t.test('large models come and go without full collections', async (t) => {
  const addon = native()
  const cancel = addon.createCancel()
  const backend = addon.createBackend({ threads: 1, isa: 'auto' })
  const { file, description } = await openModel(addon, embedded, cancel)
  const before = addon.counters().liveBytes
  let full = 0
  const observer = new PerformanceObserver((list) => {
    const pauses = list.getEntries() as unknown as { detail: { kind: number } }[]
    full += pauses.filter(({ detail }) => detail.kind === constants.NODE_PERFORMANCE_GC_MAJOR).length
  })
  observer.observe({ entryTypes: ['gc'] })
  const rounds = 12
  for (let i = 0; i < rounds; i++) {
    // Memory for so many tokens is granted, and never touched.
    const model = await backend.loadModel(file, description.plan, { maxBatchTokens: 16_384 }, cancel)
    t.ok(addon.counters().liveBytes - before > 128 * 2 ** 20, 'V8 would begin a collection over 64 MiB')
    await model.dispose()
  }
  await sleep(50)
  observer.disconnect()
  t.ok(full < rounds / 4, `${full} full collections in ${rounds} loads`)
  backend.dispose()
  file.close()
})

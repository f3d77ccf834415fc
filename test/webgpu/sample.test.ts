import t from 'tap'
import { openBackend } from 'tiered-moe/kernels'
import { checkDraw, settings } from '../kernels/draws.js'
import { floats, stream } from '../kernels/values.js'
import { openGpu } from './adapter.js'

const gpu = await openGpu(t)

if (gpu) {
  t.test('grid of vocabularies and settings', async (test) => {
    let close = 0
    let drawn = 0
    for (const vocab of [1, 2, 17, 100, 255, 256, 257, 1000, 5000]) {
      for (let i = 0; i < 16; i++) {
        const label = `vocab ${vocab}, ${i}`
        const next = stream(label)
        const logits = floats(vocab, next, i % 8 === 7 ? 'zero' : 'normal', 3)
        const held = logits.slice()
        const own = settings(next, vocab, [256, vocab])
        const result = await gpu.sample({ ...own, logits })
        test.same(logits, held, `${label}: the logits are as they were`)
        drawn++
        if (!checkDraw(test, label, logits, own, result)) close++
      }
    }
    test.ok(close < drawn / 10, `${close} of ${drawn} too close to call`)
  })

  t.test('a draw is one submit', async (test) => {
    const { submits } = gpu
    await gpu.sample({ logits: Float32Array.of(1, 3, 2), position: 0, temperature: 0 })
    test.equal(gpu.submits - submits, 1)
  })

  t.test('ties at the last candidate: the smaller ids', async (test) => {
    const logits = new Float32Array(3000).fill(1)
    logits[2999] = 2
    logits[7] = -1
    const { top } = await gpu.sample({ logits, position: 0, topLogprobs: 20 })
    test.same(top?.ids, Int32Array.of(2999, 0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19))
  })

  t.test('more candidates than the GPU sorts: the CPU draws, from logits on the device too', async (test) => {
    const cpu = openBackend('cpu')
    const logits = floats(1000, stream('many'), 'normal', 3)
    const request = { position: 5, seed: 9, temperature: 0.9, topP: 0.9, recent: Int32Array.of(3), topLogprobs: 2 }
    const expected = await cpu.sample({ ...request, logits })
    cpu.dispose()
    test.same(await gpu.sample({ ...request, logits }), expected)
    const onDevice = await gpu.upload(logits)
    test.same(await gpu.sample({ ...request, logits: onDevice }), expected)
    const few = await gpu.sample({ ...request, logits: onDevice, topK: 50 })
    test.same(few.token, (await gpu.sample({ ...request, logits, topK: 50 })).token)
    test.same(await onDevice.read(), logits, 'the logits are as they were')
    onDevice.dispose()
  })

  t.test('refused', async (test) => {
    const logits = new Float32Array(40)
    for (const [topK, temperature] of [
      [40, 1],
      [0, 0]
    ] as const) {
      const bad = logits.slice()
      bad[33] = Number.NEGATIVE_INFINITY
      bad[12] = Number.NaN
      await test.rejects(gpu.sample({ logits: bad, position: 1, topK, temperature }), {
        code: 'RUNTIME_NAN_DETECTED',
        details: { token: 12 }
      })
      const banned = Int32Array.from(logits.keys())
      await test.rejects(gpu.sample({ logits, position: 1, topK, temperature, banned }), { code: 'VALIDATION_ERROR' })
    }
    for (const part of [{ temperature: -1 }, { topP: 2 }, { topK: 1.5 }, { position: -1 }, { topLogprobs: 21 }])
      await test.rejects(
        gpu.sample({ logits, position: 1, ...part }),
        { code: 'VALIDATION_ERROR' },
        JSON.stringify(part)
      )
  })
}

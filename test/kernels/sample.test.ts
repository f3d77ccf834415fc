import t from 'tap'
import type { SampleRequest } from 'tiered-moe/kernels'
import { checkDraw, settings } from './draws.js'
import { Forms } from './forms.js'
import { uniformAt } from './oracle-dense.js'
import { floats, stream } from './values.js'

const forms = new Forms(t)

t.test('grid of vocabularies and settings', async (test) => {
  let close = 0
  let drawn = 0
  for (const vocab of [1, 2, 15, 16, 17, 100, 1000]) {
    for (let i = 0; i < 40; i++) {
      const label = `vocab ${vocab}, ${i}`
      const next = stream(label)
      const logits = floats(vocab, next, i % 10 === 9 ? 'zero' : 'normal', 3)
      const own = settings(next, vocab, [vocab, 10 * vocab])
      const { result } = await forms.sameBits('sample', label, {
        request: (memory) => ({ ...own, logits: memory.input('logits', logits) })
      })
      drawn++
      if (!checkDraw(test, label, logits, own, result)) close++
    }
  }
  test.ok(close < drawn / 20, `${close} of ${drawn} draws were too close to call`)
})

t.test('large vocabularies, many logits equal, the best in any block', async (test) => {
  for (const vocab of [255, 256, 257, 5003]) {
    for (let i = 0; i < 24; i++) {
      const label = `vocab ${vocab}, ${i}`
      const next = stream(label)
      const logits = floats(vocab, next, 'normal', 3).map((x) => Math.round(2 * x) / 2)
      const own = { ...settings(next, vocab, [vocab, 10 * vocab]), topK: [0, 1, 2, 40, 300, vocab][i % 6]! }
      const { result } = await forms.sameBits('sample', label, {
        request: (memory) => ({ ...own, logits: memory.input('logits', logits) })
      })
      checkDraw(test, label, logits, own, result)
    }
  }
})

t.test('(seed, position) alone decides a draw', async (test) => {
  const logits = new Float32Array(1 << 12)
  const draw = (seed: number, position: number) =>
    forms.backend.sync.sample({ logits, temperature: 1, seed, position }).token
  for (const seed of [0, 1, 2 ** 53 - 1]) {
    for (const position of [0, 1, 2, 1000, 2 ** 31]) {
      // equal logits: the token is the uniform number itself
      const wanted = Math.floor(uniformAt(seed, position) * (1 << 12))
      test.ok(Math.abs(draw(seed, position) - wanted) <= 1, `seed ${seed}, position ${position}`)
      test.equal(draw(seed, position), draw(seed, position))
    }
  }
  const counts = new Uint32Array(16)
  const even = new Float32Array(16)
  for (let position = 0; position < 4000; position++)
    counts[forms.backend.sync.sample({ logits: even, temperature: 1, seed: 9, position }).token]!++
  const chi = counts.reduce((sum, n) => sum + (n - 250) ** 2 / 250, 0)
  test.ok(chi < 40, `4,000 draws of 16 are even: chi square ${chi}`)
})

t.test('greedy: the largest, the smallest id on a tie, never a banned one', async (test) => {
  const logits = Float32Array.of(1, 5, -2, 5, 5, 0)
  const greedy = async (more: Partial<SampleRequest>) =>
    (await forms.sameBits('sample', JSON.stringify(more), { request: () => ({ logits, position: 0, ...more }) })).result
      .token
  test.equal(await greedy({}), 1)
  test.equal(await greedy({ banned: Int32Array.of(1) }), 3)
  test.equal(await greedy({ banned: Int32Array.of(1, 3, 4, -7, 99) }), 0)
  test.equal(await greedy({ allowed: Uint32Array.of(0b101101) }), 3)
  test.equal(await greedy({ allowed: Uint32Array.of(0b101101), banned: Int32Array.of(3) }), 0)
  test.equal(await greedy({ recent: Int32Array.of(1, 3, 4, 4, -1, 99), repetitionPenalty: 10 }), 0)
  test.equal(await greedy({ logits: new Float32Array(5).fill(-0) }), 0)
  test.equal(await greedy({ logits: Float32Array.of(-3e38, -2e38) }), 1)
})

t.test('extreme temperatures and logits end in a sensible token', async (test) => {
  const logits = Float32Array.of(1, 9, 3, 8.5)
  for (const temperature of [1e-6, 1e-30, 1e-38]) {
    const { result } = await forms.sameBits('sample', `temperature ${temperature}`, {
      request: () => ({ logits, position: 3, temperature })
    })
    test.equal(result.token, 1, `temperature ${temperature}: as good as greedy`)
  }
  for (const large of [Float32Array.of(-3e38, 3e38, 0), Float32Array.of(3e38, 3.2e38, -3e38)]) {
    const { result } = await forms.sameBits('sample', `${large}`, {
      request: () => ({ logits: large, position: 3, temperature: 0.1, topLogprobs: 3 })
    })
    test.equal(result.token, 1, 'the largest by far')
  }
  const penalised = await forms.sameBits('sample', 'a tiny penalty', {
    request: () => ({
      logits: Float32Array.of(3e38, 1),
      position: 0,
      temperature: 1,
      repetitionPenalty: 1e-6,
      recent: Int32Array.of(0)
    })
  })
  test.equal(penalised.result.token, 0)
})

t.test('what cannot be sampled', async () => {
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
    const logits = Float32Array.of(0, bad, 1)
    for (const temperature of [0, 1])
      await forms.sameError(
        'sample',
        `${bad}`,
        { request: () => ({ logits, position: 0, temperature }) },
        'RUNTIME_NAN_DETECTED',
        {
          token: 1
        }
      )
  }
  for (const temperature of [0, 1]) {
    const own = { logits: new Float32Array(2), position: 0, temperature, banned: Int32Array.of(0, 1) }
    await forms.sameError(
      'sample',
      `all banned, temperature ${temperature}`,
      { request: () => own },
      'VALIDATION_ERROR'
    )
  }
  const shut = { logits: new Float32Array(40), position: 0, banned: Int32Array.of(3), allowed: Uint32Array.of(8) }
  await forms.sameError('sample', 'all allowed ones are banned', { request: () => shut }, 'VALIDATION_ERROR')
  await forms.sameError(
    'sample',
    'no logits',
    { request: () => ({ logits: new Float32Array(0), position: 0 }) },
    'VALIDATION_ERROR'
  )
})

import t from 'tap'
import type { DType, ExpertMatmulRequest } from 'tiered-moe/kernels'
import { dtypes } from 'tiered-moe/kernels'
import { firstFar } from './close.js'
import { type ExpertLayer, expertLayer } from './expert-layer.js'
import { type Case, Forms } from './forms.js'
import { dispatchMisfits } from './misfits.js'
import { tokenCounts } from './shapes.js'
import { tolerances } from './tolerance.js'
import { isQuantised, skews } from './values.js'

const forms = new Forms(t)

/** Width and hidden width of a type: whole blocks for the quantised; odd for the others, and one with seven groups of 16 rows. */
const sizesOf: Record<DType, readonly (readonly [width: number, hidden: number])[]> = {
  F32: [
    [1, 1],
    [17, 5],
    [48, 33],
    [5, 112]
  ],
  F16: [
    [3, 16],
    [31, 20],
    [100, 3]
  ],
  BF16: [
    [16, 7],
    [33, 48],
    [4, 109]
  ],
  Q8_0: [
    [32, 32],
    [96, 64]
  ],
  Q4_0: [
    [32, 64],
    [64, 160]
  ],
  Q4_1: [[32, 96]],
  Q5_0: [[96, 32]],
  Q5_1: [[64, 64]],
  Q4_K: [[256, 256]],
  Q5_K: [[256, 256]],
  Q6_K: [[256, 256]],
  MXFP4: [
    [32, 64],
    [64, 160]
  ],
  IQ4_NL: [[64, 96]],
  IQ4_XS: [[256, 256]]
}
const moeShapes = [
  { experts: 1, k: 1 },
  { experts: 3, k: 3 },
  { experts: 8, k: 2 }
]

function layer(shape: ExpertLayer, label: string) {
  const own = expertLayer(shape, label)
  const { k, experts, width } = shape
  const { x, offsets, slots, file, options } = own
  const one: Case<'expertMatmul'> = {
    request: (memory, naive): ExpertMatmulRequest => ({
      x: memory.input('x', x),
      k,
      offsets: memory.input('offsets', offsets),
      slots: memory.input('slots', slots),
      gate: forms.matrix(memory, 'gate', file.gate, naive, experts),
      up: forms.matrix(memory, 'up', file.up, naive, experts),
      down: forms.matrix(memory, 'down', file.down, naive, experts),
      ...options,
      out: memory.floats('out', slots.length * width)
    }),
    row: width
  }
  return { ...own, one }
}

for (const type of dtypes) {
  t.test(`${type}: grid`, async (test) => {
    let turn = 0
    for (const [width, hidden] of sizesOf[type]) {
      for (const { experts, k } of moeShapes) {
        for (const tokens of tokenCounts) {
          const skew = skews[turn++ % skews.length]!
          const label = `${type}, ${width} → ${hidden}, ${tokens} tokens, ${k} of ${experts}, ${skew}`
          const own = layer({ tokens, experts, k, skew, types: [type, type, type], width, hidden }, label)
          const { result } = await forms.sameBits('expertMatmul', label, own.one)
          if (tokens > 2) continue
          const tolerance = isQuantised(type) ? tolerances.expertQuantised : tolerances.expertFloat
          test.equal(firstFar(result, own.oracle(), tolerance), undefined, `${label}: the oracle`)
        }
      }
    }
  })
}

t.test('more rows of one expert than go through its matrices together', async () => {
  const cases = [
    ['Q4_0', 32, 160, 257, 'one'],
    ['Q8_0', 32, 288, 420, 'even'],
    ['F32', 5, 133, 530, 'one'],
    ['BF16', 3, 300, 420, 'even']
  ] as const
  for (const [type, width, hidden, tokens, skew] of cases) {
    const label = `${type}, ${tokens} rows, ${width} → ${hidden}`
    const shape = { tokens, experts: 3, k: 1, skew, types: [type, type, type], width, hidden, biased: true } as const
    await forms.sameBits('expertMatmul', label, layer(shape, label).one)
  }
})

t.test('matrices of different types in one layer', async (test) => {
  const mixes = [
    ['Q4_0', 'Q4_0', 'Q6_K'],
    ['Q6_K', 'Q8_0', 'F16'],
    ['F32', 'Q8_0', 'BF16'],
    ['Q4_K', 'Q4_K', 'Q6_K'],
    ['MXFP4', 'MXFP4', 'Q8_0'],
    ['Q5_K', 'Q5_K', 'Q6_K'],
    ['IQ4_XS', 'IQ4_NL', 'Q5_1'],
    ['Q4_1', 'Q5_0', 'Q5_K'],
    ['BF16', 'F32', 'Q4_0']
  ] as const
  for (const types of mixes) {
    const own = layer({ tokens: 5, experts: 4, k: 2, skew: 'even', types, width: 256, hidden: 256 }, types.join())
    const { result } = await forms.sameBits('expertMatmul', types.join(' '), own.one)
    test.equal(firstFar(result, own.oracle(), tolerances.expertQuantised), undefined, `${types}: the oracle`)
  }
})

t.test('the clamped activation, and biases', async (test) => {
  for (const [type, width, hidden] of [
    ['F32', 17, 5],
    ['BF16', 33, 48],
    ['Q8_0', 96, 64],
    ['MXFP4', 64, 160]
  ] as const) {
    for (const activation of ['silu', 'clamped_swiglu'] as const) {
      for (const biased of [true, false]) {
        if (activation === 'silu' && !biased) continue
        const label = `${type}, ${activation}${biased ? ', biases' : ''}`
        const shape = { tokens: 9, experts: 4, k: 2, skew: 'even', types: [type, type, type], width, hidden } as const
        const own = layer({ ...shape, activation, biased }, label)
        // Beyond ±7, where it clamps.
        for (let i = 0; i < own.x.length; i += 3) own.x[i]! *= 20
        const { result } = await forms.sameBits('expertMatmul', label, own.one)
        const tolerance = isQuantised(type) ? tolerances.expertQuantised : tolerances.expertFloat
        test.equal(firstFar(result, own.oracle(), tolerance), undefined, `${label}: the oracle`)
      }
    }
  }
  const mixed = layer(
    {
      tokens: 5,
      experts: 4,
      k: 2,
      skew: 'even',
      types: ['F16', 'Q8_0', 'Q4_0'],
      width: 64,
      hidden: 96,
      activation: 'clamped_swiglu',
      biased: true
    },
    'mixed'
  )
  const { result } = await forms.sameBits('expertMatmul', 'types that differ, with biases', mixed.one)
  test.equal(firstFar(result, mixed.oracle(), tolerances.expertQuantised), undefined, 'types that differ: the oracle')
  const nan = layer(
    {
      tokens: 3,
      experts: 2,
      k: 1,
      skew: 'even',
      types: ['F32', 'F32', 'F32'],
      width: 8,
      hidden: 8,
      activation: 'clamped_swiglu'
    },
    'nan'
  )
  nan.x[9] = Number.NaN
  const bad = await forms.sameBits('expertMatmul', 'NaN is not clamped away', nan.one)
  test.ok([...bad.result].some((value) => Number.isNaN(value)))
  for (const [name, part] of Object.entries({
    'another activation': { activation: 'gelu' as 'silu' },
    'biases of another length': { biases: { gate: new Float32Array(15) } },
    'biases that are no floats': { biases: { down: new Int32Array(16) as unknown as Float32Array } }
  }))
    await forms.sameError(
      'expertMatmul',
      name,
      { request: (memory, naive) => ({ ...nan.one.request(memory, naive), ...part }) },
      'VALIDATION_ERROR'
    )
})

t.test('a row does not depend on its neighbours: alone, in a batch, or with all tokens on one expert', async (test) => {
  for (const type of ['F32', 'Q8_0', 'Q4_0'] as const) {
    const types = [type, type, type] as const
    const many = layer({ tokens: 40, experts: 2, k: 1, skew: 'one', types, width: 64, hidden: 96 }, `alone ${type}`)
    const all = await forms.sameBits('expertMatmul', `${type}: 40 tokens on one expert`, many.one)
    const expert = many.offsets[1] === 40 ? 0 : 1
    for (const token of [0, 13, 39]) {
      const offsets = Uint32Array.of(0, expert === 0 ? 1 : 0, 1)
      const alone = await forms.sameBits('expertMatmul', `${type}: token ${token} alone`, {
        request: (memory, naive) => ({
          ...many.one.request(memory, naive),
          x: many.x.slice(token * 64, token * 64 + 64),
          offsets,
          slots: new Uint32Array(1),
          out: new Float32Array(64)
        })
      })
      test.same(alone.result, all.result.slice(token * 64, token * 64 + 64))
    }
  }
})

t.test('a value that is not finite meets quantised weights', async () => {
  const own = layer(
    { tokens: 4, experts: 3, k: 2, skew: 'even', types: ['Q8_0', 'Q8_0', 'Q8_0'], width: 64, hidden: 32 },
    'bad'
  )
  for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
    const x = own.x.slice()
    x[2 * 64 + 63] = bad
    await forms.sameError(
      'expertMatmul',
      `${bad}`,
      { request: (memory, naive) => ({ ...own.one.request(memory, naive), x: memory.input('x2', x) }) },
      'RUNTIME_NAN_DETECTED',
      { token: 2 }
    )
  }
})

t.test('offsets and slots that no dispatch gave', async () => {
  const own = layer(
    { tokens: 2, experts: 2, k: 2, skew: 'even', types: ['F32', 'F32', 'F32'], width: 4, hidden: 4 },
    'dispatch'
  )
  for (const [name, part] of Object.entries(dispatchMisfits))
    await forms.sameError(
      'expertMatmul',
      name,
      { request: (memory, naive) => ({ ...own.one.request(memory, naive), ...part }) },
      'VALIDATION_ERROR'
    )
})

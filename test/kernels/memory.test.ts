/** The instruments of the kernel tests see what they are for. */
import t from 'tap'
import { firstFar } from './close.js'
import { firstDifference, Memory } from './memory.js'
import { encodeRow, nearestEven, quantiseActivations } from './oracle-weights.js'
import { bound, tolerances } from './tolerance.js'

t.test('a difference of one bit, with its place', async (test) => {
  const a = Float32Array.of(1, 0, 3, 4)
  test.equal(firstDifference('out', a, a.slice()), undefined)
  test.equal(
    firstDifference('out', a, Float32Array.of(1, -0, 3, 5), 2),
    'out[0][1] = 0 (00000000), expected 0 (80000000)'
  )
  test.match(firstDifference('out', a, Float32Array.of(1, 0, 3, 4.0000005), 2), /^out\[1\]\[1\] = 4 \(40800000\)/)
  test.match(firstDifference('out', Float32Array.of(Number.NaN), Float32Array.of(0)), /NaN/)
  test.match(firstDifference('out', a, new Float32Array(3)), /4 elements, expected 3/)
})

t.test('writes around an output and into an input', async (test) => {
  const memory = new Memory()
  const input = memory.input('x', Float32Array.of(1, 2))
  const out = memory.floats('out', 3)
  out.fill(7)
  test.equal(memory.damage(), undefined)
  test.equal(out.byteOffset % 64, 4, 'memory is aligned to its elements only')
  new Float32Array(out.buffer, out.byteOffset, 4)[3] = 1
  test.equal(memory.damage(), 'byte 12 of out (12 long)')
  input[1] = 3
  test.equal(memory.damage(), 'input x changed at byte 6')
})

t.test('the oracle allows what its tolerance says and no more', async (test) => {
  const oracle = [{ value: 1, scale: 1, terms: 4 }]
  const allowed = bound(tolerances.combine, 1, 4)
  test.ok(allowed > 4 * 2 ** -24 && allowed < 6 * 2 ** -24)
  test.equal(firstFar([1 + allowed / 2], oracle, tolerances.combine), undefined)
  test.match(firstFar([1 + allowed * 2], oracle, tolerances.combine), /off by/)
  test.match(firstFar([Number.NaN], oracle, tolerances.combine), /NaN/)
})

t.test('roundings of the oracle', async (test) => {
  test.same([0.5, 1.5, 2.5, -0.5, -1.5, 0.49, 1.51, -2.5].map(nearestEven), [0, 2, 2, 0, -2, 0, 2, -2])
  const [block] = quantiseActivations(Float32Array.from({ length: 32 }, (_, i) => (i === 31 ? -127 : i)))
  test.same(block, { codes: Array.from({ length: 32 }, (_, i) => (i === 31 ? -127 : i)), scale: 1 })
  test.same(quantiseActivations(new Float32Array(32).fill(2 ** -120))[0]?.scale, 0, 'a tiny block is zero')
  const row = Float32Array.from({ length: 32 }, (_, i) => i - 16)
  test.equal(Buffer.from(encodeRow('Q4_0', row)).toString('hex', 0, 2), '0040', 'd = −16 / −8 = 2 as f16')
})

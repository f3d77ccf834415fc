/** Experts that become one, and experts that begin anew. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { convertModel } from 'tiered-moe'
import { answers, answersOf, floatsOf, gguf, shape, startEngine, writeGrafted } from './models.js'

const model = 'm'

t.test('a merge is the weighted average in both places', async (t) => {
  t.testdir()
  const source = writeGrafted(gguf(t, 'a'), 1, [], { type: 'F32' })
  const average = (shares: readonly [number, number]) => (part: string) => {
    const [a, b] = [floatsOf(1, 1, 2, part), floatsOf(1, 1, 4, part)]
    const [p, q] = shares.map(Math.fround) as [number, number]
    // Exact in doubles but for the last rounding: two products of 24 bits each.
    return new Uint8Array(a.map((x, i) => Math.fround(Math.fround(p * x) + q * b[i]!)).buffer)
  }
  for (const weights of [[3, 1], undefined] as const) {
    const engine = await startEngine(t)
    await engine.loadModel({ model: source, id: model })
    // Nothing has used them yet: equal shares.
    const data = average(weights ? [0.75, 0.25] : [0.5, 0.5])
    const grafts = [2, 4].map((expert) => ({ layer: 1, expert, seed: 1, data }))
    const expected = await answersOf(t, writeGrafted(gguf(t, 'merged'), 1, grafts, { type: 'F32' }))
    const { experts } = await engine.swapExperts(model, [
      { action: 'merge', layer: 1, experts: [2, 4], ...(weights && { weights }) }
    ])
    t.equal(experts.length, 2)
    t.equal(experts[0]!.sha256, experts[1]!.sha256)
    t.same(await answers(engine, model), expected)
    await engine.dispose()
  }
})

t.test('counts of use are the weights of a merge', async (t) => {
  t.testdir()
  const source = writeGrafted(gguf(t, 'a'), 1, [], { type: 'F32' })
  const engine = await startEngine(t)
  await engine.loadModel({ model: source, id: model })
  await answers(engine, model)
  const { rows } = engine.modelStats(model).use
  const weights = [rows[0]!, rows[3]!]
  t.ok(weights[0]! > 0 && weights[1]! > 0 && weights[0] !== weights[1])
  const other = await startEngine(t)
  await other.loadModel({ model: source, id: model })
  const [counted] = (await engine.swapExperts(model, [{ action: 'merge', layer: 0, experts: [0, 3] }])).experts
  const [given] = (await other.swapExperts(model, [{ action: 'merge', layer: 0, experts: [0, 3], weights }])).experts
  t.equal(counted!.sha256, given!.sha256)
})

for (const type of ['Q8_0', 'Q4_0', 'F16', 'BF16'] as const) {
  t.test(`${type}: all of one and nothing of the other is the one, to the last bit`, async (t) => {
    t.testdir()
    const source = writeGrafted(gguf(t, 'a'), 1, [], { type })
    const folder = join(t.testdirName, 'folder')
    await convertModel({ from: source, to: folder })
    const grafts = [{ layer: 0, expert: 5, seed: 1, fromExpert: 1 }]
    const expected = await answersOf(t, writeGrafted(gguf(t, 'merged'), 1, grafts, { type }))
    for (const path of [source, folder]) {
      const engine = await startEngine(t)
      await engine.loadModel({ model: path, id: model })
      await engine.swapExperts(model, [{ action: 'merge', layer: 0, experts: [1, 5], weights: [1, 0] }])
      t.same(await answers(engine, model), expected)
      await engine.dispose()
    }
  })
}

t.test('an average that the type cannot hold is refused', async (t) => {
  t.testdir()
  const large = new Uint8Array(new Float32Array(64 * 384).fill(3e38).buffer)
  const grafts = [0, 1].map((expert) => ({ layer: 0, expert, seed: 1, data: () => large }))
  const engine = await startEngine(t)
  await engine.loadModel({ model: writeGrafted(gguf(t, 'a'), 1, grafts, { type: 'F32' }), id: model })
  const change = { action: 'merge', layer: 0, experts: [0, 1], weights: [1e308, 1e308] } as const
  await t.rejects(engine.swapExperts(model, [change]), { code: 'VALIDATION_ERROR' }, 'the sum of the weights')
})

for (const type of ['Q5_K', 'Q6_K', 'Q5_1', 'IQ4_XS'] as const) {
  t.test(`${type}: weights of a type that is only read cannot be computed`, async (t) => {
    t.testdir()
    const options = { type, embedding: 256, feedForward: 256, headDim: 64 } as const
    const engine = await startEngine(t)
    await engine.loadModel({ model: writeGrafted(gguf(t, 'a'), 1, [], options), id: model })
    const error = { code: 'TENSOR_TYPE_UNSUPPORTED', details: { type, supported: 'F32, F16, BF16, Q8_0, Q4_0' } }
    await t.rejects(engine.swapExperts(model, [{ action: 'reinitialise', layer: 0, expert: 0, seed: 1 }]), error)
    await t.rejects(engine.swapExperts(model, [{ action: 'merge', layer: 0, experts: [0, 1] }]), error)
    const from = writeGrafted(gguf(t, 'b'), 2, [], options)
    await engine.swapExperts(model, [{ action: 'replace', layer: 0, expert: 0, from }])
    const expected = await answersOf(t, writeGrafted(gguf(t, 'one'), 1, [{ layer: 0, expert: 0, seed: 2 }], options))
    t.same(await answers(engine, model), expected)
  })
}

t.test('an expert begins anew: uniform, by its seed', async (t) => {
  t.testdir()
  const source = writeGrafted(gguf(t, 'a'), 1, [], { type: 'F32' })
  const folder = join(t.testdirName, 'folder')
  await convertModel({ from: source, to: folder })
  const sums: string[] = []
  for (const seed of [7, 7, 8, 2 ** 40 + 7]) {
    const engine = await startEngine(t)
    await engine.loadModel({ model: folder, id: model })
    const { experts } = await engine.swapExperts(model, [{ action: 'reinitialise', layer: 1, expert: 3, seed }])
    sums.push(experts[0]!.sha256)
    const [file] = readdirSync(join(folder, 'versions'))
    const bytes = readFileSync(join(folder, 'versions', file!))
    const gate = new Float32Array(bytes.buffer, bytes.byteOffset, 64 * 384)
    const bound = 64 ** -0.5
    t.ok(gate.every((x) => x >= -bound && x < bound))
    const mean = gate.reduce((a, b) => a + b, 0) / gate.length
    const variance = gate.reduce((a, b) => a + b * b, 0) / gate.length
    t.ok(Math.abs(mean) < (4 * bound) / Math.sqrt(3 * gate.length), `mean ${mean}`)
    t.ok(Math.abs(variance / (bound ** 2 / 3) - 1) < 0.1, `variance ${variance}`)
    t.equal(new Set(gate).size > 0.99 * gate.length, true)
    await engine.unloadModel(model)
    await engine.dispose()
  }
  t.equal(sums[0], sums[1])
  t.equal(new Set(sums).size, 3)
  t.equal(shape.experts, 6)
})

/** loadModel({tiers}): labels on the experts of a plain model, and other placements of a model's own tiers. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { convertModel, createEngine, type ExpertKey, isEngineError, type LoadModelRequest } from 'tiered-moe'
import { readModel } from '../../lib/model/index.js'
import { moeModel, writeMoeModel } from '../fixtures/moe-model.js'
import { naiveForward } from '../model/naive-forward.js'

const skip = existsSync('build/Release/tiered_moe.node') || process.env.TIERED_MOE_ADDON ? false : 'no addon'
const TOKENS = Array.from({ length: 20 }, (_, i) => (i * 41 + 7) % 270)
const YAML = `tiers:
  - name: often
    placement: hot
    experts: {0: [0, '4-5'], 1: ['2-4']}
  - name: seldom
    placement: cold
    experts: rest
`

const failure = async (run: () => Promise<unknown>) => {
  try {
    await run()
  } catch (error) {
    return isEngineError(error) ? error : undefined
  }
  return undefined
}

t.test('labels on a plain model disable the others before top-k', { skip }, async (t) => {
  const dir = t.testdir({ 'tiers.yaml': YAML })
  const made = moeModel({})
  const model = writeMoeModel(join(dir, 'flat.gguf'))
  const { plan } = readModel(made.file)
  const read = (name: string) => {
    const { data } = made.tensors.find((tensor) => tensor.name === name)!
    return new Float32Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength))
  }
  const often = [
    [0, 4, 5],
    [2, 3, 4]
  ]
  const engine = await createEngine({ threads: 2 })
  try {
    const list = [
      { name: 'often', placement: 'hot' as const, experts: { 0: [0, '4-5'], 1: ['2-4'] } },
      { name: 'seldom', placement: 'cold' as const, experts: 'rest' as const }
    ]
    const plain = await engine.loadModel({ model, id: 'plain', kvType: 'f32' })
    for (const [id, tiers] of Object.entries({ yaml: join(dir, 'tiers.yaml'), list })) {
      await engine.loadModel({ model, id, kvType: 'f32', tiers })
      const info = engine.listModels().find((own) => own.id === id)!
      t.match(info.tiers, [
        { name: 'often', placement: 'hot', experts: 6 },
        { name: 'seldom', placement: 'cold', experts: 10 }
      ])
      const fast = await engine.forward({ model: id, tokens: TOKENS, logits: 'all', tierSet: 'fast' })
      const expected = naiveForward(plan, read, TOKENS, (layer, e) => often[layer]!.includes(e)).flat()
      const worst = expected.reduce((most, value, at) => Math.max(most, Math.abs(value - fast[at]!)), 0)
      t.ok(worst < 1e-4, `${id}: largest difference ${worst.toExponential(1)}`)
      t.same(
        await engine.forward({ model: id, tokens: TOKENS, logits: 'all' }),
        await engine.forward({ model: plain.id, tokens: TOKENS, logits: 'all' }),
        'everything enabled: the bits of the plain model'
      )
    }
  } finally {
    await engine.dispose()
  }
})

t.test('another placement of the tiers that a model has', { skip }, async (t) => {
  const hser = { tiers: { hot: [3, 2], warm: [4, 2] }, k: [1, 1, 2] as [number, number, number] }
  const model = writeMoeModel(join(t.testdir({}), 'hser.gguf'), { hser })
  const flat = writeMoeModel(join(t.testdirName, 'flat.gguf'))
  const engine = await createEngine({ threads: 1 })
  try {
    await engine.loadModel({ model, id: 'm', tiers: [{ name: 'hot', placement: 'cold', groups: 2 }], tierSet: 'fast' })
    t.match(engine.listModels()[0], {
      tiers: [
        { name: 'hot', placement: 'cold' },
        { name: 'warm', placement: 'warm' }
      ],
      tierSet: { name: 'fast', tiers: ['warm'] }
    })
    const to = join(t.testdirName, 'hser')
    await convertModel({ from: model, to })
    await engine.loadModel({ model: to, id: 'folder' })
    await engine.loadModel({ model: flat, id: 'flat', tiers: [{ name: 'some', experts: [1] }, { name: 'others' }] })
    const keys: [string, ExpertKey][] = [
      ['m', { layer: 1, tier: 'hot', group: 1, expert: 3 }],
      ['m', { layer: 0, tier: 'warm', group: 0, expert: 8 }],
      ['folder', { layer: 1, tier: 'warm', group: 1, expert: 9 }],
      ['flat', { layer: 1, tier: 'some', group: 0, expert: 1 }]
    ]
    for (const [id, key] of keys) t.match(engine.placement(id).expert(key.layer, key.expert), key, `${id}: its key`)
    const load = (tiers: unknown) => () => engine.loadModel({ model, id: 'x', tiers } as LoadModelRequest)
    const unknown = await failure(load([{ name: 'cold' }]))
    t.equal(unknown?.code, 'CONFIG_UNKNOWN_TIER')
    t.same(unknown?.details.known, ['hot', 'warm'])
    const groups = await failure(load([{ name: 'warm', groups: 3 }]))
    t.equal(groups?.code, 'CONFIG_GROUP_COUNT_MISMATCH')
    t.match(groups?.details, { tier: 'warm', configured: 3, manifest: 2, router: 4 })
    for (const bad of [
      [{ name: 'hot', experts: 'rest' }],
      [{ name: 'hot', placement: 'tepid' }],
      'tiers.yaml',
      [],
      [7]
    ])
      t.equal((await failure(load(bad)))?.code, 'VALIDATION_ERROR', JSON.stringify(bad))
  } finally {
    await engine.dispose()
  }
})

t.test('labels that do not hold every expert once', { skip }, async (t) => {
  const dir = t.testdir({ 'bad.yaml': 'tiers: 5' })
  const model = writeMoeModel(join(dir, 'flat.gguf'))
  const engine = await createEngine({ threads: 1 })
  try {
    const load = (tiers: unknown) => () => engine.loadModel({ model, tiers } as LoadModelRequest)
    for (const bad of [
      [{ name: 'a', experts: [0, 1] }],
      [
        { name: 'a', experts: ['0-7'] },
        { name: 'b', experts: [3] }
      ],
      [{ name: 'a', experts: [8] }],
      [
        { name: 'a', experts: 'rest' },
        { name: 'a', experts: [1] }
      ],
      [{ name: '../a', experts: 'rest' }],
      [
        { name: 'a', experts: { share: 0.5 } },
        { name: 'b', experts: 'rest' }
      ],
      join(dir, 'bad.yaml'),
      join(dir, 'none.yaml')
    ])
      t.equal((await failure(load(bad)))?.code, 'VALIDATION_ERROR', JSON.stringify(bad))
    t.same(engine.listModels(), [])
  } finally {
    await engine.dispose()
  }
})

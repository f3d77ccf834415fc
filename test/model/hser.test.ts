/** Hierarchical models: their topology in the metadata, and the same bits whole, in chunks, on every instruction set and thread count. */
import { createHash } from 'node:crypto'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createEngine, isEngineError } from 'tiered-moe'
import { openBackend } from 'tiered-moe/kernels'
import { readModel } from '../../lib/model/index.js'
import { type MoeModelOptions, moeFile, moeModel } from '../fixtures/moe-model.js'

const skip = existsSync('build/Release/tiered_moe.node') || process.env.TIERED_MOE_ADDON ? false : 'no addon'
const hser = { tiers: { hot: [3, 2], warm: [4, 2, 2], cold: [5] }, k: [2, 1, 2] as [number, number, number] }
const TOKENS = Array.from({ length: 40 }, (_, i) => (i * 53 + 3) % 270)

const failure = (options: MoeModelOptions) => {
  try {
    readModel(moeFile(options))
  } catch (error) {
    if (isEngineError(error)) return error
    throw error
  }
  return undefined
}

t.test('the topology of a model', async (t) => {
  const { sizes, plan, descriptor } = readModel(moeModel({ hser }).file)
  t.same(sizes.hser, {
    tiers: [
      { name: 'hot', placement: 'hot', groups: [3, 2] },
      { name: 'warm', placement: 'warm', groups: [4, 2, 2] },
      { name: 'cold', placement: 'cold', groups: [5] }
    ],
    kTier: 2,
    kGroup: 1,
    kExpert: 2,
    bound: 4
  })
  t.equal(descriptor.experts, 18)
  t.equal(descriptor.expertsUsed, 4)
  t.equal(descriptor.parts.router.tensors, 6)
  const route = plan.ops.find((op) => op.op === 'route')!
  t.equal(route.form, 'hser')
  t.same(route.hser!.tierGroups, [0, 2, 5, 6])
  t.same(route.hser!.groupExperts, [0, 3, 5, 9, 11, 13, 18])
  const named = { tiers: { small: [2], large: [4] }, k: hser.k, placements: ['hot', 'archive'] }
  const { tiers } = readModel(moeModel({ hser: { ...named, k: [1, 1, 2] } }).file).sizes.hser!
  t.same(
    tiers.map(({ placement }) => placement),
    ['hot', 'archive']
  )
})

t.test('a topology that does not fit', async (t) => {
  const bad: [string, MoeModelOptions['metadata']][] = [
    ['hser.tiers', { 'olmoe.hser.tiers': ['hot', 'hot', 'cold'] }],
    ['hser.tiers', { 'olmoe.hser.tiers': ['../x', 'warm', 'cold'] }],
    ['hser.tier_groups', { 'olmoe.hser.tier_groups': [2, 3] }],
    ['hser.tier_groups', { 'olmoe.hser.tier_groups': undefined }],
    ['hser.group_experts', { 'olmoe.hser.group_experts': [3, 2, 4, 2, 2, 6] }],
    ['hser.group_experts', { 'olmoe.hser.group_experts': [3, 2, 4, 2, 2] }],
    ['hser.tiers_used', { 'olmoe.hser.tiers_used': 4 }],
    ['hser.groups_used', { 'olmoe.hser.groups_used': 2 }],
    ['hser.experts_used', { 'olmoe.hser.experts_used': 3 }],
    ['expert_used_count', { 'olmoe.expert_used_count': 3 }],
    ['hser.placements', { 'olmoe.hser.placements': ['hot', 'warm'] }],
    ['hser.placements', { 'olmoe.hser.placements': ['hot', 'warm', 'lukewarm'] }]
  ]
  for (const [key, metadata] of bad) {
    const error = failure({ hser, metadata: metadata! })
    t.equal(error?.code, 'METADATA_INVALID', key)
    t.equal(error?.details.key, `olmoe.${key}`)
  }
  const error = failure({
    hser,
    editTensor: (tensor) => (tensor.name === 'blk.1.ffn_group_router.weight' ? { ...tensor, shape: [64, 5] } : tensor)
  })
  t.equal(error?.code, 'CONFIG_GROUP_COUNT_MISMATCH')
  t.match(error?.details, { configured: null, manifest: 6, router: 5, tensor: 'blk.1.ffn_group_router.weight' })
  const missing = failure({
    hser,
    editTensor: (tensor) => (tensor.name === 'blk.0.ffn_tier_router.weight' ? undefined : tensor)
  })
  t.equal(missing?.code, 'TENSOR_MISSING')
})

t.test('the same bits on every instruction set, thread count and chunking', { skip }, async (t) => {
  const path = join(t.testdir(), 'hser.gguf')
  writeFileSync(path, moeModel({ hser, type: 'Q4_0', layers: 3 }).bytes)
  const hashes = new Set<string>()
  for (const isa of ['scalar', 'avx2', 'avx512', 'neon'] as const) {
    try {
      openBackend('cpu', { isa }).dispose()
    } catch {
      t.comment(`skipped: no ${isa} here`)
      continue
    }
    for (const [threads, maxBatchTokens] of [
      [1, 64],
      [3, 7]
    ] as const) {
      const engine = await createEngine({ isa, threads, maxBatchTokens })
      try {
        const { id } = await engine.loadModel({ model: path })
        const logits = await engine.forward({ model: id, tokens: TOKENS, logits: 'all' })
        hashes.add(createHash('sha256').update(new Uint8Array(logits.buffer)).digest('hex'))
        const { text } = await engine.generate({
          model: id,
          prompt: 'the',
          maxTokens: 8,
          temperature: 0,
          ignoreEos: true
        })
        t.type(text, 'string')
      } finally {
        await engine.dispose()
      }
    }
  }
  t.equal(hashes.size, 1)
})

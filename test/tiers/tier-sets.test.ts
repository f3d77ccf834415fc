import t from 'tap'
import { createError, isEngineError } from '../../lib/errors/index.js'
import { hierarchicalTiers, ModelTiers, oneTier, type TierLabels } from '../../lib/tiers/model-tiers.js'
import { TierSets } from '../../lib/tiers/tier-sets.js'

/** Two layers of eight experts: layer 1 has its hot ones elsewhere. */
const labels: TierLabels = {
  tiers: [
    { name: 'a', placement: 'hot' },
    { name: 'b', placement: 'warm' },
    { name: 'c', placement: 'cold' },
    { name: 'd', placement: 'archive' }
  ],
  assignment: [
    [0, 0, 1, 1, 2, 2, 3, 3],
    [3, 2, 1, 0, 0, 1, 2, 2]
  ]
}
const model = new ModelTiers(labels, (layer) => 10 + layer)

/** As the native check, for k = 2. */
const check = (own: ModelTiers) => (enabled: Uint8Array) => {
  for (let layer = 0; layer < own.layers; layer++) {
    const on = enabled.subarray(layer * own.experts, (layer + 1) * own.experts).reduce((sum, e) => sum + e, 0)
    if (on < 2) throw createError('ROUTING_TOO_FEW_EXPERTS', `${on} enabled`, { layer, enabled: on, k: 2 })
  }
}
const sets = new TierSets(model, check(model), { cheap: ['b', 'a'], most: 'deep' })

const failure = (run: () => unknown) => {
  try {
    run()
  } catch (error) {
    if (isEngineError(error)) return error
    throw error
  }
  return undefined
}

t.test('the tiers of a model', async (t) => {
  t.same(model.tiers, [
    { name: 'a', placement: 'hot', experts: 4, bytes: 2 * 10 + 2 * 11, available: true },
    { name: 'b', placement: 'warm', experts: 4, bytes: 42, available: true },
    { name: 'c', placement: 'cold', experts: 5, bytes: 2 * 10 + 3 * 11, available: true },
    { name: 'd', placement: 'archive', experts: 3, bytes: 2 * 10 + 11, available: true }
  ])
  t.equal(model.tierOf(0, 4), 'c')
  t.equal(model.tierOf(1, 0), 'd')
  t.same([...model.mask(['a', 'd'])], [1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0])
  t.same(model.expertsIn(1, ['a', 'd']), [0, 3, 4])
  const hser = hierarchicalTiers(
    {
      tiers: [
        { name: 'x', placement: 'hot', groups: [2, 1] },
        { name: 'y', placement: 'cold', groups: [3] }
      ],
      kTier: 1,
      kGroup: 1,
      kExpert: 1,
      bound: 1
    },
    2
  )
  t.same(hser.assignment, [
    [0, 0, 0, 1, 1, 1],
    [0, 0, 0, 1, 1, 1]
  ])
})

t.test('a tier that is not here: modes do not count it, names refuse it, until it is', async (t) => {
  const part = new ModelTiers(labels, () => 1, ['a', 'd'])
  const sets = new TierSets(part, () => {}, { some: ['a', 'b'] })
  t.same(part.available(), ['b', 'c'])
  t.same(sets.activate('fast').tiers, ['b'], 'the hottest that is here')
  t.same(sets.activate('max').tiers, ['b', 'c'])
  t.ok(sets.activate('max').enabled)
  for (const asked of ['a', 'some', ['b', 'd']]) t.throws(() => sets.activate(asked), { code: 'TIER_UNAVAILABLE' })
  t.notOk(sets.suffices(['a', 'b']))
  part.makeAvailable(['a'])
  t.same(sets.activate('some').tiers, ['a', 'b'])
  t.same(sets.activate('max').tiers, ['a', 'b', 'c'])
  t.equal(sets.activate('fast').name, 'fast')
})

t.test('modes, aliases, names and lists', async (t) => {
  const tiers = (name: string | string[]) => sets.activate(name).tiers
  t.same(tiers('fast'), ['a'])
  t.same(tiers('balanced'), ['a', 'b'])
  t.same(tiers('deep'), ['a', 'b', 'c'])
  t.same(tiers('max'), ['a', 'b', 'c', 'd'])
  t.same(tiers('cheap'), ['a', 'b'])
  t.same(tiers('most'), ['a', 'b', 'c'])
  t.same(tiers('c'), ['c'])
  t.same(tiers(['c', 'a', 'c']), ['a', 'c'])
  t.equal(sets.activate(['c', 'a']).name, 'a+c')
  t.equal(sets.activate('max').enabled, undefined, 'everything enabled needs no mask')
  t.equal(sets.activate(['d', 'c', 'b', 'a']).enabled, undefined)
  t.equal(sets.activate('balanced').experts, 8)
  t.equal(sets.activate('cheap').enabled, sets.activate('balanced').enabled, 'equal TierSets share one mask')
  t.same(sets.names(), ['fast', 'balanced', 'deep', 'max', 'cheap', 'most', 'a', 'b', 'c', 'd'])
})

t.test('a mode where no tier is placed so', async (t) => {
  const cold = new ModelTiers(
    { ...labels, tiers: labels.tiers.map((tier) => ({ ...tier, placement: 'cold' })) },
    () => 1
  )
  t.same(new TierSets(cold, check(cold)).activate('fast').tiers, ['a', 'b', 'c', 'd'], 'the hottest that there are')
  const one = new ModelTiers(oneTier(2, 4), () => 1)
  for (const mode of ['fast', 'balanced', 'deep', 'max'])
    t.same(new TierSets(one, check(one)).activate(mode), { name: mode, tiers: ['all'], experts: 8, enabled: undefined })
})

t.test('names that are unknown, aliases that clash, TierSets that are too small', async (t) => {
  for (const asked of ['e', ['a', 'e'], 'constructor']) {
    const error = failure(() => sets.activate(asked))
    t.equal(error?.code, 'CONFIG_UNKNOWN_TIER')
    t.same(error?.details.known, ['a', 'b', 'c', 'd'])
    t.same(error?.details.tierSets, ['fast', 'balanced', 'deep', 'max', 'cheap', 'most'])
  }
  t.match(failure(() => sets.activate(['a', 'e']))?.details, { tier: 'e' })
  t.equal(failure(() => new TierSets(model, () => {}, { x: ['e'] }))?.code, 'CONFIG_UNKNOWN_TIER')
  for (const name of ['fast', 'a'])
    t.equal(failure(() => new TierSets(model, () => {}, { [name]: ['a'] }))?.code, 'VALIDATION_ERROR')
  const small = failure(() => sets.activate('d'))
  t.equal(small?.code, 'ROUTING_TOO_FEW_EXPERTS')
  t.match(small?.details, { tierSet: 'd', tiers: ['d'], layer: 1, enabled: 1, k: 2 })
  t.equal(sets.suffices(['d']), false)
  t.equal(sets.suffices(['a']), true)
})

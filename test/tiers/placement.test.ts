/** From tiers, pins and TierSets to what the store is told. */
import t from 'tap'
import { type Placement, PlacementPlan, placementNow } from '../../lib/tiers/placement.js'

/** Two layers of six experts: a a b b c d. */
const plan = (placements: Partial<Record<string, Placement>> = {}, budget?: number) =>
  new PlacementPlan(shape(placements, budget), 1000)
const shape = (placements: Partial<Record<string, Placement>>, budget?: number) => ({
  layers: 2,
  experts: 6,
  tiers: [
    { name: 'a', placement: placements.a ?? 'hot', ...(budget !== undefined && { budget }) },
    { name: 'b', placement: placements.b ?? 'warm' },
    { name: 'c', placement: placements.c ?? 'cold' },
    { name: 'd', placement: placements.d ?? 'archive' }
  ],
  tierOf: (_: number, expert: number) => 'aabbcd'[expert]!
})
const rows = (map: Uint8Array) => [[...map.subarray(0, 6)].join(''), [...map.subarray(6)].join('')]

t.test("hot is pinned, warm is the policy's, cold and archive go first", async (t) => {
  t.same(rows(plan().directives(100)), ['110022', '110022'])
  t.same(rows(plan().directives(4)), ['110022', '110022'])
})

t.test('a hot tier that does not fit is left to the policy, before the others', async (t) => {
  for (const room of [3, 0]) t.same(rows(plan().directives(room)), ['330022', '330022'])
})

t.test('of a hot tier no more is pinned than its budget, lowest layers and experts first', async (t) => {
  t.same(rows(plan({}, 3999).directives(100)), ['110022', '130022'])
  t.same(rows(plan({}, 3999).directives(3)), ['110022', '130022'])
  t.same(rows(plan({}, 3999).directives(2)), ['330022', '330022'], 'all of that or none')
  t.same(rows(plan({}, 999).directives(100)), ['330022', '330022'])
  t.same(rows(plan({}, 4000).directives(100)), ['110022', '110022'])
  t.same(rows(plan({ b: 'hot' }, 1000).directives(100)), ['131122', '331122'], 'the others as they are')
  t.same(rows(plan({ a: 'warm' }, 1000).directives(100)), ['000022', '000022'], 'elsewhere nothing is pinned')
  const own = plan({}, 2000)
  own.pin(1, 0, true)
  t.same(rows(own.directives(100)), ['130022', '130022'], 'pins by hand are part of it')
})

t.test('pins come before hot tiers, whatever their tier', async (t) => {
  const own = plan()
  own.pin(1, 5, true)
  own.pin(0, 2, true)
  t.same(rows(own.directives(3)), ['331022', '330021'])
  t.same(rows(own.directives(6)), ['111022', '110021'])
  t.ok(own.isPinned(1, 5) && !own.isPinned(1, 4))
  own.pin(1, 5, false)
  t.equal(own.pins, 1)
  t.same(rows(own.directives(3)), ['331022', '330022'])
})

t.test('tiers that no TierSet uses go first, hot ones too; pins stay', async (t) => {
  const own = plan({ c: 'warm' })
  own.pin(0, 0, true)
  own.activate(['b', 'c'])
  t.same(rows(own.directives(100)), ['120002', '220002'])
  own.activate(['a', 'b', 'c', 'd'])
  t.same(rows(own.directives(100)), ['110002', '110002'])
})

t.test('where an expert is', async (t) => {
  const now = (resident: boolean, pinned: boolean, local: boolean) => placementNow({ resident, pinned, local })
  t.same(
    [now(true, true, true), now(true, false, true), now(false, false, true), now(false, true, false)],
    ['hot', 'warm', 'cold', 'archive']
  )
  t.equal(now(true, false, false), 'warm', 'memory counts, whatever became of the file')
})

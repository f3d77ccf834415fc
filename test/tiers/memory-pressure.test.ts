/** The budget under memory pressure: down at once, up slowly, never outside its limits. */
import t from 'tap'
import { type MemorySample, PressureController } from '../../lib/tiers/memory-pressure.js'
import { groupPressureFile, parsePressure, stallOf } from '../../lib/tiers/memory-watch.js'

const slot = 10
const limits = { asked: 1005, least: 50, slot, reserve: 400 }
const full = { available: 10_000, stall: 0, resident: 1005 }

/** Feeds samples 250 ms apart; the decisions, with the time of each. */
function run(controller: PressureController, samples: Partial<MemorySample>[], start = 0) {
  return samples.flatMap((sample, index) => {
    const at = start + index * 250
    const decision = controller.observe({ ...full, ...sample, at })
    return decision ? [{ at, ...decision }] : []
  })
}

t.test('nothing happens where there is room', async (t) => {
  const controller = new PressureController(limits)
  t.same(run(controller, new Array(200).fill({ available: 401, stall: 9 })), [])
  t.equal(controller.budget, 1005)
})

t.test('what lacks of the reserve is given back at once', async (t) => {
  const controller = new PressureController(limits)
  t.same(run(controller, [{ available: 300 }]), [{ at: 0, budget: 900, reason: 'memory' }])
  t.same(run(controller, [{ available: 395, resident: 900 }]), [{ at: 0, budget: 890, reason: 'memory' }])
  const unused = new PressureController(limits)
  t.same(
    run(unused, [{ available: 399, resident: 200 }]),
    [{ at: 0, budget: 190, reason: 'memory' }],
    'what is not used frees nothing'
  )
})

t.test('never below the least', async (t) => {
  const controller = new PressureController(limits)
  t.match(
    run(controller, [{ available: 0 }, { available: 0, resident: 600 }, { available: 0, resident: 50 }]),
    [{ budget: 600 }, { budget: 200 }, { budget: 50 }].slice(0, 3)
  )
  t.same(run(controller, [{ available: 0, resident: 50 }]), [], 'once there it stays')
})

t.test('stalls take an eighth, and wait for what that did', async (t) => {
  const controller = new PressureController(limits)
  const samples = new Array(41).fill({ stall: 20 })
  t.same(run(controller, samples), [
    { at: 0, budget: 870, reason: 'stall' },
    { at: 5000, budget: 760, reason: 'stall' },
    { at: 10_000, budget: 660, reason: 'stall' }
  ])
})

t.test(
  'after ten calm seconds a quarter of the reserve is given back every second, up to what was asked for',
  async (t) => {
    const controller = new PressureController(limits)
    run(controller, [{ available: 0 }])
    t.equal(controller.budget, 600)
    const calm = run(controller, new Array(60).fill({ available: 1000, resident: 600 }), 1000)
    t.same(calm, [
      { at: 11_000, budget: 700, reason: 'calm' },
      { at: 12_000, budget: 800, reason: 'calm' },
      { at: 13_000, budget: 900, reason: 'calm' },
      { at: 14_000, budget: 1000, reason: 'calm' },
      { at: 15_000, budget: 1005, reason: 'calm' }
    ])
  }
)

t.test('of little room half is given back, and of a slot that is larger than a step one', async (t) => {
  const controller = new PressureController(limits)
  run(controller, [{ available: 0 }])
  t.match(run(controller, new Array(41).fill({ available: 700, resident: 600 }), 1000), [{ budget: 650 }])
  const large = new PressureController({ ...limits, slot: 300, reserve: 400 })
  run(large, [{ available: 0 }])
  t.match(run(large, new Array(41).fill({ available: 2000, resident: 600 }), 1000), [{ budget: 900 }])
})

t.test(
  'no swinging: between the reserve and half as much again nothing moves, and a moment of need starts the wait anew',
  async (t) => {
    const controller = new PressureController(limits)
    run(controller, [{ available: 0 }])
    t.same(run(controller, new Array(200).fill({ available: 599, resident: 600 }), 1000), [])
    const samples = Array.from({ length: 120 }, (_, index) => ({
      available: index % 39 === 38 ? 500 : 5000,
      resident: 600
    }))
    t.same(run(controller, samples, 100_000), [])
    const oscillating = new PressureController(limits)
    // A neighbour that takes and gives 500 bytes every two seconds must not make the budget follow it.
    let moves = 0
    for (let at = 0; at < 120_000; at += 250) {
      const taken = Math.floor(at / 2000) % 2 === 0 ? 500 : 0
      const used = Math.min(oscillating.budget, 1005)
      if (oscillating.observe({ at, available: 1500 - taken - used + 300, stall: 0, resident: used })) moves++
    }
    t.ok(moves <= 2, `${moves} moves in two minutes`)
  }
)

t.test('the pressure file', async (t) => {
  const text = 'some avg10=1.53 avg60=0.87 avg300=0.20 total=12345\nfull avg10=0.50 avg60=0.10 avg300=0.00 total=456\n'
  t.equal(parsePressure(text), 1.53)
  t.equal(parsePressure('some avg10=100.00 avg60=3'), 100)
  t.equal(parsePressure(''), 0)
  t.equal(parsePressure('full avg10=5.00'), 0)
})

t.test('whose stalls count', async (t) => {
  const stalled = 'some avg10=40.00 avg60=3'
  const free = (share: number) => ({ pressure: stalled, free: share * 1000, total: 1000 })
  t.equal(stallOf(free(0.05), ''), 40, "the machine's, where it is short of memory")
  t.equal(stallOf(free(0.5), ''), 0, 'with plenty free some group is at a limit of its own')
  t.equal(stallOf(free(0.5), 'some avg10=12.50 avg60=3'), 12.5, "this process's own group")
  t.equal(groupPressureFile('4:memory:/a\n0::/b/c\n'), '/sys/fs/cgroup/b/c/memory.pressure')
  t.equal(groupPressureFile('0::/\n'), '/sys/fs/cgroup/memory.pressure')
  t.equal(groupPressureFile('4:memory:/a\n'), undefined)
})

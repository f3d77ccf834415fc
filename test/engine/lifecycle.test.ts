import t from 'tap'
import type { EngineState, Transition } from '../../lib/lifecycle.js'
import { Lifecycle, transitions } from '../../lib/lifecycle.js'

const states = Object.keys(transitions) as EngineState[]

/** The shortest way from init to each state. */
const ways: Record<EngineState, EngineState[]> = {
  init: [],
  warm: ['warm'],
  active: ['warm', 'active'],
  expanding: ['warm', 'active', 'expanding'],
  frozen: ['warm', 'active', 'frozen'],
  recovering: ['recovering'],
  draining: ['draining'],
  closed: ['draining', 'closed']
}

/** The design's table, written out: every pair that is allowed. */
const allowed = new Set(
  `init warm, warm active, active expanding, expanding active, active frozen, frozen warm, frozen active,
   init recovering, warm recovering, active recovering, expanding recovering, frozen recovering, draining recovering,
   recovering warm, recovering active, recovering closed,
   init draining, warm draining, active draining, frozen draining, expanding draining, draining closed`
    .split(',')
    .map((pair) => pair.trim())
)

t.test('every pair of states', async (t) => {
  for (const from of states) {
    for (const to of states) {
      const seen: Transition[] = []
      const lifecycle = new Lifecycle((transition) => seen.push(transition))
      for (const step of ways[from]) lifecycle.to(step, 'test')
      t.equal(lifecycle.state, from)
      if (allowed.has(`${from} ${to}`)) {
        lifecycle.to(to, 'because')
        t.equal(lifecycle.state, to)
        t.match(seen.at(-1), { previous: from, next: to, reason: 'because' })
      } else {
        t.throws(() => lifecycle.to(to, 'because'), {
          code: 'LIFECYCLE_INVALID_TRANSITION',
          details: { from, to, allowed: transitions[from] }
        })
        t.equal(lifecycle.state, from, 'a refused transition changes nothing')
      }
    }
  }
})

t.test('a listener that throws does not stop a transition', async (t) => {
  const lifecycle = new Lifecycle(() => {
    throw new RangeError('listener')
  })
  lifecycle.to('warm', 'test')
  t.equal(lifecycle.state, 'warm')
  t.ok(lifecycle.serving)
})

/** 10,000 seeded interleavings of calls that begin and end around an open circuit, beside the rules as a list of facts. */
import t from 'tap'
import { seededRandom } from '../../lib/resilience/backoff.js'
import { type BreakerChange, CircuitBreaker, type CircuitBreakerOptions } from '../../lib/resilience/index.js'
import { FakeClock } from '../fixtures/clock.js'

interface Call {
  /** Times that the circuit had opened when it began. */
  openings: number
  trial: boolean
  end(outcome: 'success' | 'failure' | 'exempt'): void
  done: Promise<unknown>
}

const exempt = { status: 429 }
const allowed: Readonly<Record<string, string>> = {
  FAILURE_THRESHOLD_EXCEEDED: 'CLOSED OPEN',
  RECOVERY_TIMEOUT_ELAPSED: 'OPEN HALF_OPEN',
  SUCCESS_THRESHOLD_REACHED: 'HALF_OPEN CLOSED',
  FAILURE_IN_HALF_OPEN: 'HALF_OPEN OPEN'
}

/** Runs one interleaving; the first rule that was broken, or undefined, and what it saw. */
async function interleave(seed: number): Promise<{ fault: string | undefined; seen: Set<string> }> {
  const random = seededRandom(seed)
  const from = (least: number, most: number) => least + Math.floor(random() * (most - least + 1))
  const options: CircuitBreakerOptions = {
    name: 'x',
    failureThreshold: from(1, 3),
    recoveryTimeoutMs: 10,
    halfOpenMaxCalls: from(1, 3),
    halfOpenSuccessThreshold: from(1, 4),
    failureWindowMs: random() < 0.5 ? 15 : Number.POSITIVE_INFINITY
  }
  const clock = new FakeClock()
  const changes: BreakerChange[] = []
  const breaker = new CircuitBreaker({ ...options, clock, onStateChange: (change) => changes.push(change) })
  const running: Call[] = []
  const seen = new Set<string>()
  // What the rules say of the present: failures in a row with their last moment, and of a trial its successes.
  let failures: number[] = []
  let successes = 0
  let openedAt = 0
  let openings = 0
  let state = 'CLOSED'
  const fault = (text: string) => ({ fault: `seed ${seed}: ${text}`, seen })

  for (let step = 0; step < 24; step++) {
    const choice = random()
    if (choice < 0.2) clock.skip(from(1, 12))
    else if (choice < 0.6 || running.length === 0) {
      if (state === 'OPEN' && clock.now() - openedAt >= options.recoveryTimeoutMs) {
        state = 'HALF_OPEN'
        successes = 0
      }
      const trials = running.filter((call) => call.trial && call.openings === openings).length
      const lets = state === 'CLOSED' || (state === 'HALF_OPEN' && trials < options.halfOpenMaxCalls)
      const call: Partial<Call> = { openings, trial: state === 'HALF_OPEN' }
      let refusedBy: string | undefined
      call.done = breaker
        .execute(
          () =>
            new Promise((resolve, reject) => {
              call.end = (outcome) => {
                if (outcome === 'success') resolve(1)
                else reject(outcome === 'failure' ? new Error('x') : exempt)
              }
            })
        )
        .catch((error) => {
          refusedBy = error?.code === 'CIRCUIT_BREAKER_OPEN' ? error.state : undefined
        })
      if (call.end) running.push(call as Call)
      else await call.done
      if (lets !== (call.end !== undefined)) return fault(`a call in ${state} with ${trials} trials: ${!lets}`)
      if (!lets && refusedBy !== state) return fault(`refused by ${refusedBy} in ${state}`)
      seen.add(lets ? `let through ${state}` : `refused ${state}`)
    } else {
      const [call] = running.splice(from(0, running.length - 1), 1)
      const outcome = random() < 0.45 ? 'success' : random() < 0.8 ? 'failure' : 'exempt'
      call!.end(outcome)
      await call!.done
      const current = call!.openings === openings
      if (!current) seen.add(`${outcome} of before`)
      if (current && outcome === 'failure') {
        const last = failures.at(-1)
        if (last !== undefined && clock.now() - last > options.failureWindowMs) failures = []
        failures.push(clock.now())
        if (state === 'HALF_OPEN' || failures.length >= options.failureThreshold) {
          state = 'OPEN'
          openedAt = clock.now()
          openings++
        }
      } else if (current && outcome === 'success') {
        if (state === 'CLOSED' || ++successes >= options.halfOpenSuccessThreshold) {
          state = 'CLOSED'
          failures = []
        }
      }
    }
    if (breaker.state !== state) return fault(`step ${step}: ${breaker.state} instead of ${state}`)
    const { failureCount } = breaker.snapshot()
    if (failureCount !== failures.length) return fault(`step ${step}: ${failureCount} failures of ${failures.length}`)
    const trials = running.filter((call) => call.trial && call.openings === openings).length
    const full = state === 'HALF_OPEN' && trials >= options.halfOpenMaxCalls
    if ((breaker.trial !== undefined) !== full)
      return fault(`step ${step}: a trial to wait for, with ${trials} of them`)
  }
  let previous = 'CLOSED'
  for (const change of changes) {
    const move = `${change.previous} ${change.next}`
    if (change.previous !== previous || allowed[change.reason] !== move) return fault(`${move}: ${change.reason}`)
    previous = change.next
    seen.add(change.reason)
  }
  for (const call of running) call.end('success')
  return { fault: undefined, seen }
}

t.test('no interleaving breaks a rule', async (t) => {
  const seen = new Set<string>()
  for (let seed = 1; seed <= 10_000; seed++) {
    const result = await interleave(seed)
    if (result.fault) return t.fail(result.fault)
    for (const what of result.seen) seen.add(what)
  }
  t.same(
    [...seen].sort(),
    [
      ...Object.keys(allowed),
      ...['CLOSED', 'HALF_OPEN'].map((state) => `let through ${state}`),
      ...['OPEN', 'HALF_OPEN'].map((state) => `refused ${state}`),
      ...['success', 'failure', 'exempt'].map((outcome) => `${outcome} of before`)
    ].sort(),
    'and every rule was needed'
  )
})

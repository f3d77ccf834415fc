// The conditions that the documents name which this library was made from, by the names that rows cover them with.

/** The fifteen edge cases of the hand-off of llama-orch. */
export const edgeCases = [
  'GPU and CUDA failures',
  'model corruption',
  'limits on concurrent requests',
  'timeout cascades',
  'network partition',
  'model version mismatch',
  'partial responses',
  'leaks of resources',
  'disk space',
  'memory pressure',
  'shutdown during inference',
  'model hot-swapping',
  'load balancing failures',
  'expired tokens',
  'rate limits'
].map((title, i) => ({ name: `edge ${i + 1}`, title }))

/** The eight patterns of its guide. */
export const patterns = [
  'retry with exponential backoff',
  'circuit breaker',
  'fail fast on GPU errors',
  'resources are given back',
  'errors that say what to do',
  'HTTP statuses',
  'nested timeouts',
  'limits on concurrent requests'
].map((title, i) => ({ name: `pattern ${i + 1}`, title }))

const ranks =
  'needs several processes that share one model (expert parallelism), which come later; their exchange of tokens is tested in `test/ranks`'

/** What Lite LLM 008 names, bullet by bullet. `cannot`: why one machine does not show it. */
export const s008 = [
  { name: 'S008 configuration: missing', title: 'configuration: missing' },
  {
    name: 'S008 configuration: descriptive message',
    title: 'configuration: found at the start, with a descriptive message'
  },
  { name: 'S008 unknown tier', title: 'configuration: unknown tier' },
  { name: 'S008 mismatched group counts', title: 'configuration: mismatched group counts' },
  { name: 'S008 insufficient memory', title: 'resource: insufficient memory' },
  { name: 'S008 exhausted file descriptors', title: 'resource: exhausted file descriptors' },
  { name: 'S008 invalid device state', title: 'resource: invalid device state' },
  { name: 'S008 resource: demote a tier', title: 'resource: a tier is demoted to make room' },
  { name: 'S008 resource: fatal where essential', title: 'resource: fatal where it is essential' },
  { name: 'S008 invalid expert id', title: 'routing: invalid expert' },
  { name: 'S008 routing: detected promptly', title: 'routing: detected before anything is computed' },
  {
    name: 'S008 routing mismatch',
    title: 'routing: nodes disagree (checksums, full maps in debug builds)',
    cannot: ranks
  },
  { name: 'S008 runtime: panic in a kernel', title: 'runtime: panic in a kernel' },
  { name: 'S008 runtime: memory corruption', title: 'runtime: memory corruption' },
  { name: 'S008 runtime: NaN', title: 'runtime: arithmetic exceptions' },
  { name: 'S008 runtime: abort and restart', title: 'runtime: abort and restart, deterministically' },
  { name: 'S008 recoverable: resource', title: 'recoverable: exhausted resources, with a policy and a retry' },
  { name: 'S008 recoverable: timeout', title: 'recoverable: timeouts of communication' },
  { name: 'S008 recoverable: cache miss', title: 'recoverable: a cache miss that loads' },
  { name: 'S008 corrupted checkpoint', title: 'fatal: corrupted checkpoint' },
  { name: 'S008 version mismatch', title: 'fatal: version mismatch' },
  { name: 'S008 invariant violated', title: 'fatal: a deterministic invariant does not hold' },
  { name: 'S008 fatal: abort', title: 'fatal: what cannot go on ends, and waits for an operator' },
  { name: 'S008 consensus', title: 'fatal: no consensus on routes', cannot: ranks },
  { name: 'S008 starvation: monitoring', title: 'starvation: monitoring' },
  { name: 'S008 starvation: reactivation', title: 'starvation: reactivation' },
  { name: 'S008 node failure: detection', title: 'node failure: found by heartbeats' },
  { name: 'S008 node failure: degradation', title: 'node failure: those that are left go on' },
  { name: 'S008 node failure: reconstruction', title: 'node failure: state comes back, with the same routes' },
  {
    name: 'S008 node failure: other machines',
    title: 'node failure: a rank of an expert-parallel group',
    cannot: ranks
  }
]

export const conditions = [...edgeCases, ...patterns, ...s008]

/** Conditions that no row covers and that have no reason not to be; rows' names that are none. */
export function gaps(groups) {
  const covered = new Set(groups.flatMap(({ rows }) => rows.flatMap(({ covers }) => covers)))
  const known = new Set(conditions.map(({ name }) => name))
  return {
    missing: conditions.filter(({ name, cannot }) => !covered.has(name) && !cannot).map(({ name }) => name),
    unknown: [...covered].filter((name) => !known.has(name))
  }
}

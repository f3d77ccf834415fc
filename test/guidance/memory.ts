/** What hostile schemas take of memory: each has a process of its own, with a heap that is smaller than what it would take without limits. */
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const script = fileURLToPath(new URL('./bounded.ts', import.meta.url))
const heapMiB = 200

/** So many characters beyond ASCII, no two of them side by side. */
const alternating = (count: number): string =>
  String.fromCodePoint(...Array.from({ length: count }, (_, i) => 0x3400 + 2 * i))

const cases: [name: string, schema: unknown, text: string, outcome: string][] = [
  [
    'a wide class beside a length',
    { type: 'string', pattern: `^[${alternating(2000)}]*$`, minLength: 6000 },
    '',
    'too_large'
  ],
  ['a wide class, many times', { type: 'string', pattern: `^[${alternating(9000)}]{1000}$` }, '', 'too_large'],
  [
    'a name of a million characters beside others',
    { properties: { ['x'.repeat(1e6)]: {} }, additionalProperties: {} },
    '',
    'too_large'
  ],
  [
    'many counts at once',
    { anyOf: Array.from({ length: 1000 }, (_, i) => ({ type: 'string', minLength: 1_000_001 + i })) },
    `"${'a'.repeat(1500)}`,
    'followed'
  ]
]

for (const [name, schema, text, outcome] of cases) {
  t.test(name, async (t) => {
    const args = [`--max-old-space-size=${heapMiB}`, '--import=./scripts/test-loader.mjs', script]
    const input = JSON.stringify({ schema, text })
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { input, encoding: 'utf8' })
    t.equal(status, 0, stderr.slice(0, 500))
    t.equal(stdout.trim(), outcome)
  })
}

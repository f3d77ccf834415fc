// Serves a model while the system refuses memory to this process (RLIMIT_DATA), and prints what became of its load and its requests as JSON.
//   node refused-memory.mjs MODEL
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { createEngine } from '../../dist/esm/index.js'

const page = 8 * 2 ** 20

/** Leaves so many bytes more than what this process has now; undefined: as many as there are. */
function leave(bytes) {
  const now = Number(/^VmData:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024
  const limit = bytes === undefined ? 'unlimited' : now + bytes
  const { status, stderr } = spawnSync('prlimit', ['--pid', process.pid, `--data=${limit}:`], { encoding: 'utf8' })
  if (status !== 0) throw new TypeError(`prlimit: ${stderr}`)
}

const engine = await createEngine({ threads: 1, maxBatchTokens: 64 })
const request = { model: process.argv[2], kvType: 'f32', contextLength: 512 }
const before = engine.counters()
leave(page)
const load = await engine.loadModel(request).then(
  () => null,
  (error) => error
)
leave(undefined)
// A refusal waits for no read that is under way; its file goes when it has ended.
for (let i = 0; i < 250 && engine.counters().openFiles > before.openFiles; i++) await sleep(20)
const after = engine.counters()
const { id } = await engine.loadModel(request)
const promptTokens = Array.from({ length: 70 }, (_, i) => (i * 7) % 250)
const generate = () =>
  engine.generate({ model: id, promptTokens, maxTokens: 4, temperature: 0, ignoreEos: true }).then(
    ({ tokens }) => tokens.join(),
    (error) => error
  )
const expected = await generate()
// Of the two pages that each request needs, four.
leave(4.75 * page)
const outcomes = await Promise.all(Array.from({ length: 6 }, generate))
leave(undefined)
const later = await generate()
await engine.dispose()
console.log(JSON.stringify({ load, before, after, loaded: typeof expected === 'string', expected, outcomes, later }))

// Feeds one target: node child.mjs NAME SEED FIRST COUNT STATE. Each input's number is in the file STATE before it is tried, so that whoever started this
// knows which input ended the process. A thread of its own watches the time and the memory.
import { mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { isEngineError } from '../../dist/esm/index.js'
import { outputFolder } from '../harness.mjs'
import { limits } from './limits.mjs'
import { Draw } from './mutate.mjs'
import { targets } from './targets.mjs'

const [name, seed, first, count, statePath] = process.argv.slice(2)
const state = openSync(statePath, 'w')
const shared = new Int32Array(new SharedArrayBuffer(8))
const watch = new Worker(new URL('./watch.mjs', import.meta.url), { workerData: { shared, limits } })
watch.unref()
const { make, parse } = await targets[name]()
const outcomes = {}
const faults = []

/** Keeps an input that showed a fault. */
function keep(number, input, reason) {
  const folder = join(outputFolder, 'fuzz')
  mkdirSync(folder, { recursive: true })
  const bytes = Buffer.isBuffer(input)
    ? input
    : Buffer.from(typeof input === 'string' ? input : (JSON.stringify(input) ?? ''))
  writeFileSync(join(folder, `${name}-${seed}-${number}`), bytes)
  faults.push({ number, reason })
}

/** An input, or nothing where a value has so many levels that it cannot be written, or none is read of that size. */
function made(number) {
  try {
    return make(new Draw(Number(seed), number))
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    outcomes['not made'] = (outcomes['not made'] ?? 0) + 1
    return undefined
  }
}

for (let number = Number(first); number < Number(first) + Number(count); number++) {
  writeSync(state, Buffer.from(Uint32Array.of(number).buffer), 0, 4, 0)
  const input = made(number)
  if (input === undefined) continue
  Atomics.store(shared, 0, number + 1)
  let outcome = 'taken'
  try {
    outcome = (await parse(input)) ?? outcome
  } catch (error) {
    outcome = isEngineError(error) ? error.code : 'untyped'
    if (outcome === 'untyped') keep(number, input, String(error?.stack ?? error))
  }
  // What it takes to make the next one is not a parser's.
  Atomics.store(shared, 0, 0)
  outcomes[outcome] = (outcomes[outcome] ?? 0) + 1
  if ({}.polluted !== undefined) {
    keep(number, input, 'a prototype was changed')
    delete Object.prototype.polluted
  }
  if (faults.length >= 5) break
}
console.log(
  JSON.stringify({
    outcomes,
    faults,
    peakBytes: process.resourceUsage().maxRSS * 1024,
    slowestMs: Atomics.load(shared, 1)
  })
)
process.exit(0)

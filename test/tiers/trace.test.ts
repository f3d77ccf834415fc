/** The trace file: written and read back, and refused with a reason where it is damaged. */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { isEngineError } from 'tiered-moe'
import { comparePolicies, fixedMixes } from '../../lib/tiers/simulation.js'
import { readTrace, type Trace, TraceWriter, traceRecords, traceSteps, writeTrace } from '../../lib/tiers/trace.js'
import { random } from '../fixtures/weights.js'

function sample(): Trace {
  const next = random(3)
  const trace = new TraceWriter()
  for (let step = 0; step < 400; step++) {
    trace.step({ sequences: 2, rows: 9, prefillRows: 8 })
    for (let layer = 0; layer < 3; layer++)
      trace.layer(
        layer,
        Array.from({ length: 8 }, (_, e) => layer * 8 + e).filter(() => next() < 0.3)
      )
  }
  return { layers: 3, experts: 8, slots: 12, policy: 'adaptive', seed: 7, model: 'sample', words: trace.words() }
}

const failure = (promise: Promise<unknown>) =>
  promise.then(
    () => undefined,
    (error: unknown) => (isEngineError(error) ? error : undefined)
  )

t.test('a trace is what was written', async (t) => {
  const folder = t.testdir({})
  const path = join(folder, 'a.trace')
  const trace = sample()
  await writeTrace(path, trace)
  t.same(await readTrace(path), trace)
  t.equal(traceSteps(trace), 400)
  t.equal([...traceRecords(trace.words)].length, 1600)
  await writeTrace(path, { ...trace, model: undefined })
  t.equal((await readTrace(path)).model, undefined, 'written over')
  t.same(readdirSync(folder), ['a.trace'], 'nothing temporary is left')

  // as docs/traces.md tells others to read it
  const bytes = readFileSync(path)
  const end = bytes.indexOf(10)
  const head = JSON.parse(bytes.toString('utf8', 0, end)) as { words: number; sha256: string }
  t.equal((end + 1) % 64, 0)
  t.equal(bytes.length, end + 1 + 4 * head.words)
  t.equal(
    createHash('sha256')
      .update(bytes.subarray(end + 1))
      .digest('hex'),
    head.sha256
  )
  t.equal(bytes.readUInt32LE(end + 1), 1 + 256 * 3)
})

t.test('what is damaged is refused', async (t) => {
  const folder = t.testdir({})
  const path = join(folder, 'a.trace')
  await writeTrace(path, sample())
  const whole = readFileSync(path)
  const end = whole.indexOf(10)
  const head = whole.toString('utf8', 0, end)
  const refused = async (bytes: Buffer, reason: RegExp) => {
    writeFileSync(path, bytes)
    const error = await failure(readTrace(path))
    t.equal(error?.code, 'TRACE_INVALID')
    t.match(error?.details.reason, reason)
  }
  const withHead = (text: string) => Buffer.concat([Buffer.from(text), whole.subarray(end)])
  await refused(whole.subarray(0, whole.length - 4), /bytes of words/)
  await refused(Buffer.concat([whole, Buffer.from([0])]), /bytes of words/)
  const flipped = Buffer.from(whole)
  flipped[end + 100]! ^= 4
  await refused(flipped, /SHA-256/)
  await refused(Buffer.alloc(70_000, 0x20), /no head/)
  await refused(Buffer.from('GGUF\n'), /not JSON/)
  await refused(withHead(head.replace('"1.0"', '"2.0"')), /version is 2\.0/)
  await refused(withHead(head.replace('"layers":3', '"layers":0')), /layers/)
  await refused(withHead('[]'), /form/)
  writeFileSync(path, withHead(head.replace('"1.0"', '"1.7"').replace('{', '{"more":1,')))
  t.equal((await readTrace(path)).layers, 3, 'a minor version and unknown fields are read')
  t.equal((await failure(readTrace(join(folder, 'none'))))?.code, 'FILE_READ_FAILED')
  t.equal((await failure(writeTrace(join(folder, 'none', 'a.trace'), sample())))?.code, 'FILE_WRITE_FAILED')
})

t.test('policies are compared with the optimum', async (t) => {
  const { optimum, policies, mixes, uses } = await comparePolicies(sample(), 12)
  t.same(
    policies.map(({ policy }) => policy),
    ['adaptive', 'lru', 'lfu', 'arc']
  )
  t.same(
    mixes.map(({ mix }) => mix),
    Object.keys(fixedMixes)
  )
  for (const result of [...policies, ...mixes]) {
    t.equal(result.uses, uses)
    t.equal(result.hitRate, result.hits / uses)
    t.equal(result.ofOptimum, result.hits / optimum.hits)
    t.ok(result.ofOptimum > 0.3 && result.ofOptimum <= 1)
  }
  const everything = await comparePolicies(sample(), 24, { mixes: false })
  t.equal(everything.mixes.length, 0)
  for (const { misses } of everything.policies) t.equal(misses, 24, 'each expert is read once')
})

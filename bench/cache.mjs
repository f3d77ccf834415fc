// Hit rates of the expert cache's policies, beside Belady's optimum:   npm run bench:cache [-- --full] [-- --svg PATH]
// Traces: seeded flat, skewed and drifting ones, and the embedded model's own, recorded live. --full: longer ones, several sequences at
// once, a wider model, and (where ../shared/peer has synth_gguf.py) a file with a skewed router. Exit 1 where the default policy's hits
// are not within 1 % of those of the best of LRU, LFU, ARC and the fixed mixes.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createEngine } from '../dist/esm/index.js'
import { comparePolicies } from '../dist/esm/tiers/simulation.js'
import { traceSteps } from '../dist/esm/tiers/trace.js'
import { environment, printEnvironment, printTable, root, writeReport } from './harness.mjs'
import { hitRatePlot } from './plot.mjs'
import { syntheticTrace } from './traces.mjs'

const full = process.argv.includes('--full')
const svgAt = process.argv.indexOf('--svg')
const judged = [0.25, 0.5, 0.75]
const drawn = full ? [0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9] : judged
const allowed = 0.99

const openings = [
  'ROMEO:',
  'First Citizen:\nBefore we proceed',
  'KING RICHARD III:\n',
  'JULIET:\nO',
  'What news, my lord?',
  'Enter',
  'Good morrow',
  'The'
]

/** What a model asks of a cache while it writes `count` texts, `together` at a time. */
async function recorded({ model, count, together, maxTokens }) {
  const engine = await createEngine()
  try {
    const source = model ? { model } : {}
    const { id } = await engine.loadModel(source)
    const { base, keyValues, arena, experts } = engine.listModels()[0].memory
    await engine.unloadModel(id)
    // every expert has a slot: what is asked does not depend on what is there
    const memory = base + keyValues + arena + experts.all
    await engine.loadModel({ ...source, memory, prefetch: 'off', recordTrace: true })
    let next = 0
    const write = async () => {
      for (let i = next++; i < count; i = next++) {
        const prompt = openings[i % openings.length]
        await engine.generate({ model: id, prompt, maxTokens, temperature: 0.8, seed: i, ignoreEos: true })
      }
    }
    await Promise.all(Array.from({ length: together }, write))
    return engine.expertTrace(id)
  } finally {
    await engine.dispose()
  }
}

/** A file with a skewed router, as the peer's tool writes it; undefined where that tool is not there. */
async function skewedFile() {
  const script = join(root, '..', 'shared', 'peer', 'synth_gguf.py')
  if (!existsSync(script)) return undefined
  const folder = mkdtempSync(join(tmpdir(), 'tiered-moe-cache-'))
  try {
    const path = join(folder, 'skew.gguf')
    const shape =
      '--arch olmoe --n-layer 8 --n-embd 256 --n-head 4 --n-kv-head 4 --head-dim 64 --n-ff-exp 64 --n-expert 64 --n-expert-used 8 --n-vocab 1024 --n-ctx 2048 --type F32 --router-skew 1'
    const { status, stderr } = spawnSync('/usr/bin/python3', [script, path, ...shape.split(' ')], { encoding: 'utf8' })
    if (status !== 0) {
      console.log(`skipped the file with a skewed router: ${stderr.trim().split('\n').at(-1)}`)
      return undefined
    }
    return await recorded({ model: path, count: 12, together: 1, maxTokens: 220 })
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const wide = { layers: 8, experts: 64, k: 8 }
const steps = full ? 3000 : 600
const traces = [
  ['flat', syntheticTrace({ kind: 'flat', ...wide, steps, seed: 1 })],
  ['skewed', syntheticTrace({ kind: 'skewed', ...wide, steps, seed: 2 })],
  ['drifting', syntheticTrace({ kind: 'drifting', ...wide, steps, seed: 3 })],
  ['embedded model', await recorded({ count: full ? 24 : 8, together: 1, maxTokens: 220 })]
]
if (full) {
  const four = { ...wide, steps: 1000, sequences: 4 }
  traces.push(
    ['topics', syntheticTrace({ kind: 'topics', ...wide, steps, seed: 4 })],
    ['skewed, 4 sequences', syntheticTrace({ kind: 'skewed', ...four, seed: 5 })],
    ['drifting, 4 sequences', syntheticTrace({ kind: 'drifting', ...four, seed: 6 })],
    ['skewed, 32 layers', syntheticTrace({ kind: 'skewed', layers: 32, experts: 32, k: 4, steps: 1000, seed: 7 })],
    ['embedded model, 4 sequences', await recorded({ count: 40, together: 4, maxTokens: 220 })]
  )
  const file = await skewedFile()
  if (file) traces.push(['file with a skewed router', file])
}

const stamp = environment()
printEnvironment(stamp)
const percent = (share) => (100 * share).toFixed(2)
const rows = []
const report = []
const failures = []
for (const [name, trace] of traces) {
  const all = trace.layers * trace.experts
  for (const residency of drawn) {
    const slots = Math.floor(all * residency)
    const { policies, mixes, optimum, uses } = await comparePolicies(trace, slots, { seed: trace.seed })
    const [adaptive, lru, lfu, arc] = policies
    const mix = mixes.reduce((a, b) => (b.hits > a.hits ? b : a))
    const best = [lru, lfu, arc, mix].reduce((a, b) => (b.hits > a.hits ? b : a))
    const ratio = adaptive.hits / best.hits
    report.push({
      trace: name,
      steps: traceSteps(trace),
      residency,
      slots,
      uses,
      hitRate: { adaptive, lru, lfu, arc, mix, optimum },
      mix: mix.mix,
      ofBest: ratio
    })
    if (!judged.includes(residency)) continue
    rows.push([
      `${name} ${100 * residency} %`,
      ...[adaptive, lru, lfu, arc, mix].map(({ hitRate }) => percent(hitRate)),
      mix.mix,
      percent(optimum.hitRate),
      percent(adaptive.ofOptimum),
      ratio.toFixed(4)
    ])
    if (ratio < allowed)
      failures.push(`${name} at ${100 * residency} %: ${ratio.toFixed(4)} of ${best.mix ?? best.policy}`)
  }
}
printTable(
  ['trace, residency', 'adaptive', 'LRU', 'LFU', 'ARC', 'best mix', 'which', 'optimum', 'of optimum %', 'of best'],
  rows
)

const plain = report.map((row) => ({
  ...row,
  hitRate: Object.fromEntries(Object.entries(row.hitRate).map(([key, { hitRate }]) => [key, hitRate]))
}))
const svg = hitRatePlot(
  'Expert cache: hits (%) by experts in memory (%)',
  traces.map(([title]) => ({ title, points: plain.filter(({ trace }) => trace === title) }))
)
writeReport('cache.json', { environment: stamp, full, results: plain })
console.log(`plot: ${writeReport('cache.svg', svg)}`)
if (svgAt > 0) writeFileSync(process.argv[svgAt + 1], svg)
for (const failure of failures) console.error(`not within 1 %: ${failure}`)
if (failures.length === 0) console.log(`adaptive is within 1 % of the best in all ${rows.length} cases`)
process.exitCode = failures.length === 0 ? 0 : 1

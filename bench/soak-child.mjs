// The process of bench/soak.mjs: an engine under load, watched by itself; prints one JSON line.
//   node --expose-gc soak-child.mjs SETTINGS      JSON: see bench/soak.mjs
// The allocator's live bytes are a high-water mark that the addon keeps, the resident memory one that the kernel keeps; both are restarted
// at every look, so no moment is missed and each moment is compared with what was allowed then.
import { closeSync, openSync, readdirSync, readFileSync, unlinkSync, writeFileSync, writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { createEngine } from '../dist/esm/index.js'
import { native } from '../dist/esm/native.js'
import { residentMemory, seededRandom } from './harness.mjs'
import { Work } from './soak-work.mjs'

const settings = JSON.parse(process.argv[2])
const addon = native()
const lookMs = 40
const started = performance.now()

/** Peak of resident bytes since the last look. The kernel's mark starts anew. */
function residentPeak() {
  const peak = Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024
  writeFileSync('/proc/self/clear_refs', '5')
  return peak
}
const held = () => ({
  ...addon.counters(),
  files: readdirSync('/proc/self/fd').length,
  threads: readdirSync('/proc/self/task').length
})
async function settled() {
  for (let i = 0; i < 10; i++) {
    globalThis.gc()
    await sleep(50)
  }
  return held()
}

// An engine once, so that what Node makes on first use (its own threads, the event loop's files) is there already.
const { threads, maxBatchTokens } = settings
const warm = await createEngine({ threads, maxBatchTokens })
await warm.loadModel({ ...settings.guest })
await warm.generate({ model: warm.listModels()[0].id, prompt: 'a', maxTokens: 2 })
await warm.dispose()
const before = await settled()

/** The most that a model's experts could take since the last look: a budget may grow and shrink again between two. */
const limitMost = new Map()
const engine = await createEngine({
  threads,
  maxBatchTokens,
  memory: settings.memory,
  onEvent: ({ event, fields }) => {
    if (event !== 'expert_budget_changed') return
    const { model, budget, previous } = fields
    limitMost.set(model, Math.max(limitMost.get(model) ?? 0, budget, previous))
  }
})
const models = []
for (const request of settings.models) {
  const { id, descriptor } = await engine.loadModel(request)
  const { layers, experts, vocab } = descriptor
  models.push({
    id,
    layers,
    experts,
    vocab,
    tiers: engine
      .listModels()
      .at(-1)
      .tiers.map(({ name }) => name)
  })
}
const budgets = new Map(engine.listModels().map(({ id, memory }) => [id, memory]))

/** Memory that something else takes (a file in memory, charged to the control group) until the models have to give theirs. */
async function press() {
  const path = `/dev/shm/tiered-moe-soak-${process.pid}`
  const file = openSync(path, 'w')
  unlinkSync(path)
  const block = Buffer.alloc(2 ** 20, 1)
  try {
    while (addon.availableMemory() > settings.pressTo) {
      writeSync(file, block)
      await sleep(4)
    }
    await sleep(1500)
  } finally {
    closeSync(file)
  }
}

const work = new Work(engine, {
  models,
  guest: settings.guest,
  size: settings.size,
  random: seededRandom(settings.seed),
  press: settings.pressTo && press
})

/** What the models may hold now: what they were given, less what pressure took of their experts. */
function allowed() {
  let sum = work.guestMost
  work.guestMost = work.guestBytes
  for (const { id } of models) {
    const { memory, experts } = budgets.get(id)
    const limit = Math.max(engine.modelStats(id).experts.limitBytes, limitMost.get(id) ?? 0)
    sum += memory - (experts.budget - limit)
  }
  limitMost.clear()
  return sum * settings.claim
}

const samples = []
/** What is not the models', [ms, bytes] just after a collection: V8's garbage comes and goes by its own rules, what remains may not grow. */
const remains = []
const collectMs = (settings.seconds * 1000) / 60
function collect() {
  globalThis.gc()
  remains.push([performance.now() - started, residentMemory() - addon.counters().liveBytes])
}
function look() {
  // Before the mark starts anew: what is given back between the two was allowed in the interval that begins.
  const may = allowed()
  const live = addon.peakLiveBytes(true)
  const resident = residentPeak()
  const own = residentMemory() - addon.counters().liveBytes
  samples.push({ at: performance.now() - started, live, allowed: may, resident, own, ...held() })
}
addon.peakLiveBytes(true)
residentPeak()
const timers = [setInterval(look, lookMs), setInterval(collect, collectMs)]
const hoard = []
if (settings.mutant === 'growth') timers.push(setInterval(() => hoard.push(Buffer.alloc(2 ** 20, 1)), 100))
await work.run(settings.workers, performance.now() + settings.seconds * 1000)
for (const timer of timers) clearInterval(timer)
const limits = models.map(({ id }) => engine.modelStats(id).experts)
await engine.dispose()
if (settings.mutant === 'leak') globalThis.leaked = await addon.openGguf(settings.guest.model)
const after = await settled()

// An interval is judged by what was allowed in it and beside it: a budget changes between two looks.
const around = samples.map((_, i) => Math.max(...samples.slice(Math.max(0, i - 1), i + 2).map((one) => one.allowed)))
const most = (pick) => samples.reduce((greatest, sample) => Math.max(greatest, pick(sample)), Number.NEGATIVE_INFINITY)
console.log(
  JSON.stringify({
    before,
    after,
    looks: samples.length,
    live: most(({ live }) => live),
    excess: Math.max(...samples.map(({ live }, i) => live - around[i])),
    tightest: Math.max(...samples.map(({ live }, i) => live / around[i])),
    allowed: [Math.min(...around), Math.max(...around)],
    resident: most(({ resident }) => resident),
    own: most(({ own }) => own),
    files: most(({ files }) => files),
    threads: most(({ threads }) => threads),
    remains,
    series: samples.map(({ at, own, files, threads }) => [at, own, files, threads]),
    experts: limits.map(({ residency, layers, ...rest }) => rest),
    counts: work.counts,
    failed: work.failed,
    problems: work.problems
  })
)

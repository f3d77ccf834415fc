// SIGKILL at seeded random moments, restart, resume: every text must be that of an undisturbed run with the request's TierSet and the experts with
// which it began, no request lost or doubled, and the journal and the checkpoint readable. The model is a tiered checkpoint under a budget of
// memory below all of its experts, some of which are swapped and persisted all the time.
//   node bench/kill.mjs                    10 kills
//   node bench/kill.mjs --full             300 kills
//   node bench/kill.mjs --kills N --seed S
//   node bench/kill.mjs --mutant           damages the journal and the checkpoint between two runs, and checks that each damage is noticed
import { spawn } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { convertModel, createEngine, verifyCheckpoint } from '../dist/esm/index.js'
import { environment, printEnvironment, seededRandom, writeReport } from './harness.mjs'
import { mutants } from './kill-mutants.mjs'
import { Undisturbed } from './kill-oracle.mjs'
import { expertsAfter, placeOf, tiers } from './kill-plan.mjs'
import { embeddedModel } from './models.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    kills: { type: 'string' },
    seed: { type: 'string', default: '1' },
    mutant: { type: 'boolean', default: false }
  }
})
const child = join(dirname(fileURLToPath(import.meta.url)), 'kill-child.mjs')
const seed = Number(options.seed)
const concurrent = 5
/** Milliseconds of serving in which moments fall, and of writing the manifest of a checkpoint. */
const [servingSpan, persistingSpan] = [500, 12]
/**
 * Of 64 experts so many fit in the budget; the KV caches of the requests take of it too, and the experts' versions of before swaps. Beside them
 * there is room for so many pages, of 64 positions, of prefixes that requests share.
 */
const [budgetExperts, prefixPages] = [60, 16]

const work = mkdtempSync(join(tmpdir(), 'tiered-moe-kill-'))
process.on('exit', () => rmSync(work, { recursive: true, force: true }))
const converted = join(work, 'converted')
await convertModel({ from: embeddedModel, to: converted, tiers })
const firstManifest = readFileSync(join(converted, 'manifest.json'), 'utf8')
/** What every expert is told by, as it was before all swaps. */
const firstExperts = expertsOf(converted)

const undisturbed = await Undisturbed.open(seed, embeddedModel)

/** By place: the SHA-256 of the expert's blob, as a checkpoint's manifest states it. */
function expertsOf(folder) {
  const { layers } = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8'))
  const all = []
  for (const { layer, experts } of layers) {
    for (const { expert, sha256 } of experts) all[placeOf(layer, expert)] = sha256
  }
  return all
}

/** Memory for the base weights, a step, prefixes and fewer experts than there are; and that for prefixes. */
async function memoryOf(model) {
  const engine = await createEngine({ threads: 2 })
  try {
    await engine.loadModel({ model })
    const { kvBytesPerToken, memory } = engine.listModels()[0]
    const prefixCache = prefixPages * 64 * kvBytesPerToken
    return { memory: memory.base + memory.arena + prefixCache + budgetExperts * memory.experts.slot, prefixCache }
  } finally {
    await engine.dispose()
  }
}
const given = await memoryOf(converted)

const numberOf = (requestId) => Number(requestId.slice('request-'.length))

/** One campaign over one journal and one checkpoint. */
class Campaign {
  problems = []
  /** Accepted and not gone: what the next process must find. */
  owed = new Set()
  /** Acknowledged when it was killed: the next process may find them or not. */
  leaving = new Set()
  done = new Map()
  /** Of each request that is under way: the swaps that were done when it began, at least and at most. */
  windows = new Map()
  /** Swaps of which it is known that they are durable, those that were begun, and those that the checkpoint has. */
  swaps = { done: 0, begun: 0, persisted: 0 }
  resumed = 0
  swapped = 0
  /** Texts whose beginning was another one's. */
  shared = 0
  cuts = 0
  /** Kills while experts were swapped, and while they were persisted. */
  during = { swapping: 0, persisting: 0 }
  phases = { 'before the journal was open': 0, 'loading the model': 0, generating: 0, 'after the end': 0 }

  constructor(folder, random) {
    this.journal = join(folder, 'journal')
    this.checkpoint = join(folder, 'model')
    this.random = random
    cpSync(converted, this.checkpoint, { recursive: true })
  }

  problem(text) {
    this.problems.push(text)
  }

  /**
   * Starts a process, kills it `afterMs` after its start, `servingMs` after it began to serve, `persistingMs` after it began to write a manifest,
   * or once `when` holds (none: it may end), and takes down what it said. Returns how long it took until it served, in milliseconds.
   */
  async run(wanted, { afterMs, servingMs, persistingMs, when } = {}) {
    const random = this.random
    const journal = {
      path: this.journal,
      syncMs: [0, 5, 100][Math.floor(random() * 3)],
      segmentBytes: [4096, 16384, 1 << 20][Math.floor(random() * 3)]
    }
    const load = { model: this.checkpoint, id: 'tiny-shakespeare', ...given, memoryPressure: 'ignore' }
    const { done, begun } = this.swaps
    const order = {
      journal,
      threads: 1 + Math.floor(random() * 2),
      load,
      source: embeddedModel,
      seed,
      wanted,
      concurrent,
      swaps: { done, begun },
      began: Object.fromEntries([...this.windows].map(([id, { least }]) => [id, least])),
      swapSeed: Math.floor(random() * 2 ** 30)
    }
    const began = performance.now()
    const killed = spawn(process.execPath, [child, JSON.stringify(order)], { stdio: ['ignore', 'pipe', 'inherit'] })
    let phase = 'before the journal was open'
    const killAfter = (ms) => ms !== undefined && setTimeout(() => killed.kill('SIGKILL'), ms).unref()
    killAfter(afterMs)
    const closed = new Promise((resolve) => killed.once('close', resolve))
    let boot
    let changing
    for await (const line of createInterface({ input: killed.stdout })) {
      const space = line.indexOf(' ')
      const what = line.slice(0, space)
      // A line that the kill cut short was not said.
      let value
      try {
        value = JSON.parse(line.slice(space + 1))
      } catch {
        break
      }
      if (what === 'recovered') {
        phase = 'loading the model'
        this.recovered(value)
      } else if (what === 'ready') {
        phase = 'generating'
        boot = performance.now() - began
        killAfter(servingMs)
        if (value.budget >= value.all) this.problem(`the budget of ${value.budget} bytes holds every expert`)
      } else if (what === 'begins') this.windows.set(value.requestId, { least: value.swaps })
      else if (what === 'accepted') this.accepted(value)
      else if (what === 'done') {
        await this.finished(value)
      } else if (what === 'gone') this.leaving.delete(value)
      else if (what === 'swapping') this.swaps.begun = value
      else if (what === 'swapped') this.swaps.done = value
      else if (what === 'persisting') killAfter(persistingMs)
      else if (what === 'persisted') this.swaps.persisted = value
      else if (what === 'end') phase = 'after the end'
      else if (what === 'failed') this.problem(`the process failed: ${value.code} ${value.message}`)
      if (/^swapp|^persist/.test(what)) changing = what
      if (when?.()) killed.kill('SIGKILL')
    }
    await closed
    this.phases[phase]++
    if (changing in this.during) this.during[changing]++
    // A shutdown persists what is left.
    if (phase === 'after the end') this.swaps.persisted = this.swaps.done
    await this.checkCheckpoint()
    return boot
  }

  /** Its files are what its manifest states, and that has the experts of one moment between what was persisted and what was begun. */
  async checkCheckpoint() {
    const { damage } = await verifyCheckpoint(this.checkpoint)
    for (const { message } of damage) this.problem(`the checkpoint does not verify: ${message}`)
    const now = expertsOf(this.checkpoint)
    const { persisted, begun } = this.swaps
    for (let count = persisted; count <= begun; count++) {
      const after = expertsAfter(seed, count)
      if (firstExperts.some((_, place) => now[place] !== firstExperts[after.get(place) ?? place])) continue
      this.swaps.persisted = count
      return
    }
    this.problem(`the checkpoint has not the experts of any moment from swap ${persisted} to ${begun}`)
  }

  recovered({ requests, cut, damage }) {
    const found = new Set(requests.map(({ requestId }) => requestId))
    if (found.size !== requests.length) this.problem('a request is there twice')
    for (const id of this.owed) if (!found.has(id)) this.problem(`${id} had been accepted and was lost`)
    // What was on disk before the process could say so is owed from here on.
    for (const id of found) {
      if (this.leaving.has(id)) continue
      this.owed.add(id)
      this.windows.get(id).most ??= this.swaps.begun
    }
    if (damage.length > 0) this.problem(`damage: ${JSON.stringify(damage)}`)
    if (cut) this.cuts++
    this.resumed += requests.filter(({ completionTokens }) => completionTokens > 0).length
    this.leaving = new Set([...this.leaving].filter((id) => found.has(id)))
  }

  accepted({ requestId, swaps }) {
    if (this.owed.has(requestId) || this.done.has(requestId)) this.problem(`${requestId} was accepted twice`)
    this.owed.add(requestId)
    this.windows.get(requestId).most = swaps
  }

  async finished({ requestId, print, same, cached }) {
    const { least, most } = this.windows.get(requestId)
    let expected
    for (let count = least; count <= most && print !== expected; count++) {
      expected = await undisturbed.print(numberOf(requestId), count)
    }
    if (print !== expected) {
      const experts = `with the experts of swaps ${least} to ${most}`
      this.problem(`${requestId} has another text: ${print.slice(0, 300)}\n  ${experts} ${expected.slice(0, 300)}`)
    }
    if (!this.done.has(requestId) && least > 0) this.swapped++
    if (!this.done.has(requestId) && cached > 0) this.shared++
    if (!same) this.problem(`${requestId}: its second half, resumed, differs`)
    if (!this.done.has(requestId)) this.done.set(requestId, print)
    this.owed.delete(requestId)
    this.leaving.add(requestId)
  }
}

const inFolder = async (use) => {
  const folder = mkdtempSync(join(work, 'campaign-'))
  try {
    return await use(folder)
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

async function kill(count) {
  return inFolder(async (folder) => {
    const random = seededRandom(seed)
    const campaign = new Campaign(folder, random)
    const began = performance.now()
    // Requests in order; each process is offered those that are not done and enough new ones to be busy.
    let offered = 0
    const wanted = () => {
      const open = Array.from({ length: offered }, (_, i) => i).filter((i) => !campaign.done.has(`request-${i}`))
      while (open.length < 8 * concurrent) open.push(offered++)
      return open
    }
    // Every fifth moment is before it serves, and every fifth while a manifest is written.
    let boot = 500
    for (let i = 0; i < count && campaign.problems.length === 0; i++) {
      const kind = random()
      const moment = random()
      const when =
        kind < 0.2
          ? { afterMs: moment * boot }
          : kind < 0.4
            ? { persistingMs: moment * persistingSpan }
            : { servingMs: moment * servingSpan }
      const took = await campaign.run(wanted(), when)
      boot = took ?? boot
      if (count >= 50 && i % 25 === 24) console.log(`${i + 1} kills, ${campaign.done.size} texts`)
    }
    while (offered < count) offered++
    const left = Array.from({ length: offered }, (_, i) => i).filter((i) => !campaign.done.has(`request-${i}`))
    if (campaign.problems.length === 0) await campaign.run(left)
    const missing = left.filter((i) => !campaign.done.has(`request-${i}`))
    if (missing.length > 0) campaign.problem(`${missing.length} requests have no text`)
    return { campaign, minutes: (performance.now() - began) / 60_000 }
  })
}

/** The test must be able to fail: each damage between two runs has to be reported. */
async function checkMutants() {
  let missed = 0
  for (const [name, damage] of Object.entries(mutants)) {
    // A damage may change nothing that anybody sees: a text that uses none of the experts.
    let noticed = false
    for (let attempt = 0; attempt < 4 && !noticed; attempt++) {
      noticed = await inFolder((folder) => isNoticed(folder, name, damage))
    }
    if (noticed) continue
    missed++
    console.log(`${name}: NOT NOTICED`)
  }
  return missed
}

async function isNoticed(folder, name, damage) {
  const campaign = new Campaign(folder, () => 0.99)
  let changed = false
  for (let texts = 2; !changed && campaign.problems.length === 0 && texts < 60; texts += 3) {
    const wanted = Array.from({ length: texts + 20 }, (_, i) => i).filter((i) => !campaign.done.has(`request-${i}`))
    await campaign.run(wanted, { when: () => campaign.done.size >= texts && campaign.owed.size > 2 })
    changed = damage(campaign, firstManifest)
  }
  if (!changed) return false
  // As after each kill: the next process would persist again what a manifest has lost.
  await campaign.checkCheckpoint()
  await campaign.run([])
  const [problem] = campaign.problems
  if (problem) console.log(`${name}: noticed: ${problem.slice(0, 150).replaceAll('\n', ' ')}`)
  return problem !== undefined
}

if (options.mutant) {
  const missed = await checkMutants()
  await undisturbed.dispose()
  process.exit(missed === 0 ? 0 : 1)
}

const stamp = environment()
printEnvironment(stamp)
const count = Number(options.kills ?? (options.full ? 300 : 10))
const { campaign, minutes } = await kill(count)
await undisturbed.dispose()
const { problems, done, resumed, swapped, shared, swaps, during, cuts, phases } = campaign
const moments = Object.entries(phases)
  .map(([phase, times]) => `${times} ${phase}`)
  .join(', ')
console.log(
  `moments: ${moments} (the last process was left to end); ${during.swapping} in a swap, ${during.persisting} while swaps were persisted`
)
console.log(
  `${count} kills in ${minutes.toFixed(1)} minutes, seed ${seed}: ${done.size} texts identical to undisturbed runs, ${swapped} of them with swapped experts (${swaps.done} swaps), ${shared} with a beginning of the prefix cache, ${resumed} continued from tokens of the journal, ${cuts} unfinished records cut off; the checkpoint verified after each`
)
writeReport('kill.json', {
  environment: stamp,
  kills: count,
  seed,
  minutes,
  texts: done.size,
  resumed,
  swapped,
  shared,
  swaps: swaps.done,
  during,
  cuts,
  phases,
  problems
})
for (const problem of problems) console.log(`FAILED ${problem}`)
process.exitCode = problems.length ? 1 : 0

// SIGKILL at seeded random moments, restart, resume: every text must be that of an undisturbed run, and no request lost or doubled.
//   node bench/kill.mjs                    10 kills
//   node bench/kill.mjs --full             300 kills
//   node bench/kill.mjs --kills N --seed S
//   node bench/kill.mjs --mutant           damages the journal between two runs in four ways, and checks that each is noticed
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { createEngine } from '../dist/esm/index.js'
import { environment, printEnvironment, seededRandom, writeReport } from './harness.mjs'
import { mutants } from './kill-mutants.mjs'
import { fingerprint, requestOf } from './kill-plan.mjs'

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
const concurrent = 6
/** Milliseconds of serving in which moments fall. */
const servingSpan = 500

const undisturbed = await createEngine({ threads: 2 })
await undisturbed.loadModel()
const expected = new Map()
/** What a run that nothing disturbs gives for a request. */
async function expectedOf(requestId) {
  if (!expected.has(requestId)) {
    const items = []
    for await (const item of undisturbed.createGenerator(requestOf(seed, Number(requestId.slice(8))))) items.push(item)
    expected.set(requestId, fingerprint(items))
  }
  return expected.get(requestId)
}

/** One campaign over one journal. */
class Campaign {
  problems = []
  /** Accepted and not gone: what the next process must find. */
  owed = new Set()
  /** Acknowledged when it was killed: the next process may find them or not. */
  leaving = new Set()
  done = new Map()
  resumed = 0
  cuts = 0
  phases = { 'before the journal was open': 0, 'loading the model': 0, generating: 0, 'after the end': 0 }

  constructor(folder, random) {
    this.folder = folder
    this.random = random
  }

  problem(text) {
    this.problems.push(text)
  }

  /**
   * Starts a process, kills it `afterMs` after its start, `servingMs` after it began to serve, or once `when` holds (none: it may end),
   * and takes down what it said. Returns how long it took until it served, in milliseconds.
   */
  async run(wanted, { afterMs, servingMs, when } = {}) {
    const random = this.random
    const journal = {
      path: this.folder,
      syncMs: [0, 5, 100][Math.floor(random() * 3)],
      segmentBytes: [4096, 16384, 1 << 20][Math.floor(random() * 3)]
    }
    const order = { journal, threads: 1 + Math.floor(random() * 2), seed, wanted, concurrent }
    const began = performance.now()
    const killed = spawn(process.execPath, [child, JSON.stringify(order)], { stdio: ['ignore', 'pipe', 'inherit'] })
    let phase = 'before the journal was open'
    const killAfter = (ms) => ms !== undefined && setTimeout(() => killed.kill('SIGKILL'), ms).unref()
    killAfter(afterMs)
    const closed = new Promise((resolve) => killed.once('close', resolve))
    let boot
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
      } else if (what === 'accepted') this.accepted(value)
      else if (what === 'done') {
        await this.finished(value)
      } else if (what === 'gone') this.leaving.delete(value)
      else if (what === 'end') phase = 'after the end'
      else if (what === 'failed') this.problem(`the process failed: ${value.code} ${value.message}`)
      if (when?.()) killed.kill('SIGKILL')
    }
    await closed
    this.phases[phase]++
    return boot
  }

  recovered({ requests, cut, damage }) {
    const found = new Set(requests.map(({ requestId }) => requestId))
    if (found.size !== requests.length) this.problem('a request is there twice')
    for (const id of this.owed) if (!found.has(id)) this.problem(`${id} had been accepted and was lost`)
    // What was on disk before the process could say so is owed from here on.
    for (const id of found) if (!this.leaving.has(id)) this.owed.add(id)
    if (damage.length > 0) this.problem(`damage: ${JSON.stringify(damage)}`)
    if (cut) this.cuts++
    this.resumed += requests.filter(({ completionTokens }) => completionTokens > 0).length
    this.leaving = new Set([...this.leaving].filter((id) => found.has(id)))
  }

  accepted(id) {
    if (this.owed.has(id) || this.done.has(id)) this.problem(`${id} was accepted twice`)
    this.owed.add(id)
  }

  async finished({ requestId, print, same }) {
    const expected = await expectedOf(requestId)
    if (print !== expected)
      this.problem(`${requestId} has another text: ${print.slice(0, 300)}\n  instead of ${expected.slice(0, 300)}`)
    if (!same) this.problem(`${requestId}: its second half, resumed, differs`)
    if (!this.done.has(requestId)) this.done.set(requestId, print)
    this.owed.delete(requestId)
    this.leaving.add(requestId)
  }
}

const inFolder = async (work) => {
  const folder = mkdtempSync(join(tmpdir(), 'tiered-moe-kill-'))
  try {
    return await work(join(folder, 'journal'))
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
    // Every fifth moment is before it serves, the others are while it does.
    let boot = 500
    for (let i = 0; i < count && campaign.problems.length === 0; i++) {
      const early = random() < 0.2
      const moment = random()
      const took = await campaign.run(
        wanted(),
        early ? { afterMs: moment * boot } : { servingMs: moment * servingSpan }
      )
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
    await inFolder(async (folder) => {
      const campaign = new Campaign(folder, () => 0.99)
      let changed = false
      for (let texts = 2; !changed && campaign.problems.length === 0 && texts < 60; texts += 3) {
        const wanted = Array.from({ length: texts + 20 }, (_, i) => i)
        await campaign.run(wanted, { when: () => campaign.done.size >= texts && campaign.owed.size > 2 })
        changed = damage(folder, campaign.owed)
      }
      if (changed) await campaign.run([])
      const noticed = changed && campaign.problems.length > 0
      if (!noticed) missed++
      console.log(
        `${name}: ${noticed ? `noticed: ${campaign.problems[0].slice(0, 150).replaceAll('\n', ' ')}` : 'NOT NOTICED'}`
      )
    })
  }
  return missed
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
const { problems, done, resumed, cuts, phases } = campaign
const moments = Object.entries(phases)
  .map(([phase, times]) => `${times} ${phase}`)
  .join(', ')
console.log(`moments: ${moments} (the last process was left to end)`)
console.log(
  `${count} kills in ${minutes.toFixed(1)} minutes, seed ${seed}: ${done.size} texts identical to undisturbed runs, ${resumed} continued from tokens of the journal, ${cuts} unfinished records cut off`
)
writeReport('kill.json', {
  environment: stamp,
  kills: count,
  seed,
  minutes,
  texts: done.size,
  resumed,
  cuts,
  phases,
  problems
})
for (const problem of problems) console.log(`FAILED ${problem}`)
process.exitCode = problems.length ? 1 : 0

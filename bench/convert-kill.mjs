// Kills conversions (SIGKILL) at seeded moments after their folder appeared, and looks at what is left: no manifest, or one that verifies and tells the truth. Then the
// same command goes on, and has to end with the files of an undisturbed conversion.
//   node bench/convert-kill.mjs [--kills 50] [--seed 1] [--model file.gguf] [--folder tmp] [--json]
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { convertModel, verifyCheckpoint } from '../dist/esm/index.js'

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '50' },
    seed: { type: 'string', default: '1' },
    model: {
      type: 'string',
      default: fileURLToPath(new URL('../models/tiny-shakespeare-moe-q8_0.gguf', import.meta.url))
    },
    folder: { type: 'string', default: tmpdir() },
    json: { type: 'boolean', default: false }
  }
})
const cli = fileURLToPath(new URL('../dist/esm/cli/main.js', import.meta.url))
const work = mkdtempSync(join(values.folder, 'tiered-moe-kill-'))
process.on('exit', () => rmSync(work, { recursive: true, force: true }))

let state = Number(values.seed) >>> 0
/** Uniform in [0, 1): a 32-bit linear congruential generator's upper bits. */
const draw = () => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0
  return state / 2 ** 32
}

/** Files of a folder with the hashes of their bytes. */
function hashes(folder) {
  const names = readdirSync(folder, { recursive: true }).filter((name) => statSync(join(folder, name)).isFile())
  return JSON.stringify(
    names.sort().map((name) => [
      name,
      createHash('sha256')
        .update(readFileSync(join(folder, name)))
        .digest('hex')
    ])
  )
}

// Several tiers make many small files: more places to be killed at.
const tiers = join(work, 'tiers.yaml')
writeFileSync(
  tiers,
  'tiers:\n  - {name: hot, placement: hot, experts: [0, 3]}\n  - {name: warm, placement: warm, experts: [1]}\n  - {name: cold, placement: cold}\n'
)
const whole = join(work, 'whole')
await convertModel({ from: values.model, to: whole, tiers })
const truth = hashes(whole)

/** Resolves once there is something at the path, or false once `ended` says so. */
async function appears(path, ended) {
  while (!existsSync(path)) {
    if (ended()) return false
    await sleep(1)
  }
  return true
}

/** Runs `convert`; SIGKILL so many milliseconds after its folder appeared. `milliseconds`: from then to the end. */
function convert(to, killAfter) {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [cli, 'convert', values.model, to, '--tiers', tiers], {
      stdio: ['ignore', 'ignore', 'pipe']
    })
    let complaint = ''
    let ended = false
    let appeared = performance.now()
    child.stderr.on('data', (part) => {
      complaint += part
    })
    const seen = appears(to, () => ended).then(async (there) => {
      appeared = performance.now()
      if (!there || killAfter === undefined) return
      await sleep(killAfter)
      child.kill('SIGKILL')
    })
    child.on('error', reject)
    child.on('close', async (code, signal) => {
      ended = true
      const milliseconds = performance.now() - appeared
      await seen
      resolve({ code, killed: signal === 'SIGKILL', complaint, milliseconds })
    })
  })
}

/** What a killed conversion left. */
async function look(to) {
  if (!existsSync(to)) return 'nothing'
  if (!existsSync(join(to, 'manifest.json'))) return existsSync(join(to, 'convert.journal')) ? 'journal' : 'folder'
  const { damage } = await verifyCheckpoint(to)
  if (damage.length > 0) return `damaged: ${damage[0].message}`
  const left = hashes(to).replaceAll(/\["convert\.(journal|lock)","[0-9a-f]*"\],?/g, '')
  return left === truth ? 'whole' : 'a manifest that verifies but lies'
}

const first = await convert(join(work, 'timed'))
if (first.code !== 0) throw new RangeError(first.complaint)
const found = {}
const failures = []
let killed = 0
for (let run = 0; killed < Number(values.kills) && run < 20 * Number(values.kills); run++) {
  const to = join(work, `run-${run}`)
  for (let again = 0; again < 2 && killed < Number(values.kills); again++) {
    const after = draw() * first.milliseconds
    const { killed: wasKilled, code, complaint } = await convert(to, after)
    if (!wasKilled && code !== 0) failures.push(`run ${run}: ${complaint}`)
    if (!wasKilled) break
    killed++
    const left = await look(to).catch((error) => `unreadable: ${error.message}`)
    const kind = left.split(':')[0]
    found[kind] = (found[kind] ?? 0) + 1
    if (!['nothing', 'folder', 'journal', 'whole'].includes(kind))
      failures.push(`run ${run}, killed after ${after} ms: ${left}`)
  }
  const last = await convert(to)
  if (last.code !== 0) failures.push(`run ${run} did not go on: ${last.complaint}`)
  else if (hashes(to) !== truth) failures.push(`run ${run} ended with other files`)
  rmSync(to, { recursive: true })
}
if (killed < Number(values.kills)) failures.push(`only ${killed} of ${values.kills} were killed in time`)
if (values.json) console.log(JSON.stringify({ killed, found, failures }))
else {
  const kinds = Object.entries(found).map(([kind, count]) => `${kind} ${count}`)
  console.log(`${killed} conversions killed; found after it: ${kinds.join(', ')}; ${failures.length} failures`)
  for (const failure of failures) console.error(failure)
}
process.exitCode = failures.length > 0 ? 1 : 0

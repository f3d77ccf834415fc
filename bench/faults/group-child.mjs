// Runs one group of faults in a process of its own and sends each row's outcome to its parent.
//   node group-child.mjs NAME FOLDER [--full] [ROW...]
import { chmodSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { native } from '../../dist/esm/native.js'
import { lasting, ownState, settled } from './baseline.mjs'
import { loadGroup } from './groups.mjs'
import { CannotInject, Observation } from './row.mjs'

const [name, folder, ...rest] = process.argv.slice(2)
const full = rest.includes('--full')
const only = rest.filter((word) => word !== '--full')
// Where the product and its children put temporary files: what stays there is a leak.
process.env.TMPDIR = join(folder, 'temporary')
for (const path of [process.env.TMPDIR, join(folder, 'files')]) mkdirSync(path, { recursive: true })
// nginx runs as another user.
for (const path of [join(folder, '..'), folder]) chmodSync(path, 0o755)

const addon = native()
const group = await loadGroup(name)
let failure
const shared = await group.begin?.(join(folder, 'files')).catch((error) => {
  failure = error
})

async function outcomeOf(row, observed) {
  const skipped = (reason) => ({ skipped: reason })
  if (failure instanceof CannotInject) return skipped(failure.message)
  if (failure) return { problems: [`the group could not begin: ${failure.message.split('\n').at(-1)}`] }
  const look = () => ownState(addon)
  const before = await settled(look)
  try {
    await row.run(observed, shared)
  } catch (error) {
    if (error instanceof CannotInject) return skipped(error.message)
    observed.problems.push(`the row itself failed: ${error?.stack ?? error}`)
  }
  observed.finish()
  const left = await lasting(before, look)
  return {
    problems: [...observed.problems, ...left.map(({ kind, text }) => `${kind} not back: ${text}`)],
    left: left.map(({ kind }) => kind)
  }
}

for (const row of group.rows) {
  if ((row.full && !full) || (only.length > 0 && !only.includes(row.id))) continue
  const own = join(folder, 'files', row.id)
  mkdirSync(own, { recursive: true })
  const observed = new Observation(row, own)
  const began = performance.now()
  const outcome = await outcomeOf(row, observed)
  const { seen, exit, http, checks } = observed
  process.send({ id: row.id, seen, exit, http, checks, ms: Math.round(performance.now() - began), ...outcome })
}
await group.end?.(shared)
// Ticks of a hundredth of a second, of this process and of those that it has waited for (proc_pid_stat(5)).
const ticks = readFileSync('/proc/self/stat', 'utf8')
  .replace(/^.*\) /s, '')
  .split(' ')
  .slice(11, 15)
process.send({ cpuSeconds: ticks.reduce((sum, own) => sum + Number(own), 0) / 100 })
process.disconnect()

/** A process whose control group runs out of memory: experts go before the kernel kills, and the text stays the same. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const root = fileURLToPath(new URL('../..', import.meta.url))
const limitBytes = 320 * 2 ** 20

/** A group with a limit, of version 1 or 2; undefined where none can be made. */
function memoryGroup(): string | undefined {
  for (const [base, file] of [
    ['/sys/fs/cgroup/memory', 'memory.limit_in_bytes'],
    ['/sys/fs/cgroup', 'memory.max']
  ] as const) {
    const folder = join(base, `tiered-moe-test.${process.pid}`)
    try {
      mkdirSync(folder)
      if (existsSync(join(folder, file))) {
        writeFileSync(join(folder, file), String(limitBytes))
        return folder
      }
      rmdirSync(folder)
    } catch {
      // Not this version, or not ours to write.
    }
  }
  return undefined
}

const group = memoryGroup()
t.teardown(() => group && rmdirSync(group))

interface Outcome {
  before: { text: string; budget: number }
  after: { text: string; budget: number }
  changes: { budget: number; previous: number; reason: string }[]
}

function run(memoryPressure: string): Outcome {
  const command = `echo $$ > ${group}/cgroup.procs; exec "$@"`
  const child = join(root, 'test', 'fixtures', 'pressure-child.mjs')
  const { status, stdout, stderr } = spawnSync(
    'sh',
    ['-c', command, 'sh', process.execPath, child, memoryPressure, root],
    {
      encoding: 'utf8',
      timeout: 120_000
    }
  )
  t.equal(status, 0, stderr.slice(-500))
  return JSON.parse(stdout) as Outcome
}

t.test(
  'memory under pressure',
  { skip: group ? false : 'no memory control group can be made here (root, cgroup v1 or v2)' },
  async (t) => {
    const { before, after, changes } = run('demote')
    t.ok(changes.length > 0 && changes[0]!.reason === 'memory', JSON.stringify(changes))
    t.ok(after.budget < before.budget, `${after.budget} < ${before.budget}`)
    t.equal(after.text, before.text)

    const left = run('ignore')
    t.same(left.changes, [])
    t.equal(left.after.budget, left.before.budget)
    t.equal(left.after.text, before.text)
  }
)

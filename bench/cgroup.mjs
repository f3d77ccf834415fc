// Runs a command with its memory and page cache capped by a control group (version 1 or 2), which needs root.
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { runToEnd } from './children.mjs'

const base = '/sys/fs/cgroup'
const kinds = [
  {
    folder: join(base, 'memory'),
    limit: 'memory.limit_in_bytes',
    peak: 'memory.max_usage_in_bytes',
    kills: 'memory.oom_control'
  },
  { folder: base, limit: 'memory.max', peak: 'memory.peak', kills: 'memory.events' }
]
let groups = 0

/** Makes a group with a limit in bytes; undefined where none can be made, with the reason printed. */
export function memoryGroup(bytes) {
  for (const kind of kinds) {
    const folder = join(kind.folder, `tiered-moe.${process.pid}.${groups++}`)
    try {
      mkdirSync(folder)
    } catch {
      continue
    }
    if (existsSync(join(folder, kind.limit))) {
      writeFileSync(join(folder, kind.limit), String(bytes))
      return new MemoryGroup(folder, kind)
    }
    rmdirSync(folder)
  }
  console.log(`skipped: no memory control group can be made under ${base} (root, cgroup v1 or v2)`)
  return undefined
}

/** Runs a command in a group of its own, as MemoryGroup.run does; undefined where no group can be made. */
export async function runInGroup(bytes, command, args, seconds) {
  const group = memoryGroup(bytes)
  try {
    return await group?.run(command, args, seconds)
  } finally {
    group?.remove()
  }
}

class MemoryGroup {
  constructor(folder, kind) {
    this.folder = folder
    this.kind = kind
  }

  /** Resolves to {status, signal, output, complaint, peakBytes, kills} when the command has ended; kills it after `seconds`. */
  async run(command, args, seconds) {
    const enter = `echo $$ > ${join(this.folder, 'cgroup.procs')}; exec "$@"`
    const ended = await runToEnd('sh', ['-c', enter, 'sh', command, ...args], { seconds })
    const read = (name) => (existsSync(join(this.folder, name)) ? readFileSync(join(this.folder, name), 'utf8') : '')
    const kills = Number(/^oom_kill (\d+)/m.exec(read(this.kind.kills))?.[1] ?? 0)
    return { ...ended, peakBytes: Number(read(this.kind.peak)), kills }
  }

  remove() {
    try {
      rmdirSync(this.folder)
    } catch {
      // What the kernel still holds of the group goes by itself.
    }
  }
}

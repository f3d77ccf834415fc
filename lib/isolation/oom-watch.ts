/** Whether the kernel has just killed a process for its memory: by the counters of its control group, or of the machine. */
import { readFileSync } from 'node:fs'

const groups = '/sys/fs/cgroup'

const read = (path: string): string => {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

/** The line `oom_kill N` that memory.events, memory.oom_control and vmstat have. */
const killsIn = (path: string): number | undefined => {
  const found = /^oom_kill (\d+)$/m.exec(read(path))
  return found ? Number(found[1]) : undefined
}

/** The file that counts the kills of a process's group; undefined where there is none that can be read. */
function counterOf(pid: number): string | undefined {
  const lines = read(`/proc/${pid}/cgroup`).split('\n')
  const candidates = lines.flatMap((line) => {
    const [, kind, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? []
    if (path === undefined) return []
    if (kind === '') return [`${groups}${path}/memory.events`, `${groups}/memory.events`]
    const own = kind!.split(',').includes('memory')
    return own ? [`${groups}/memory${path}/memory.oom_control`, `${groups}/memory/memory.oom_control`] : []
  })
  return candidates.find((path) => killsIn(path) !== undefined)
}

interface Counts {
  path: string | undefined
  group: number | undefined
  machine: number | undefined
}

/** Kills of the machine's count that were those of a worker: they say nothing of the others, which may die a moment later. */
let attributed = 0

/** Kills of the machine that no worker's death has explained. */
const machineKills = (): number | undefined => {
  const kills = killsIn('/proc/vmstat')
  return kills === undefined ? undefined : kills - attributed
}

export class OomWatch {
  readonly #pid: number
  /** The last two looks: a kill may have been counted just before the last one, and be told after it. */
  #before: Counts
  #last: Counts

  constructor(pid: number) {
    this.#pid = pid
    this.#last = this.#count()
    this.#before = this.#last
  }

  /** Called from time to time while the process lives: it may be moved to another group. */
  look(): void {
    this.#before = this.#last
    this.#last = this.#count()
  }

  /** Whether a counter grew since the look before the last one. Asked once, when the process has died. */
  killed(): boolean {
    const grown = ({ path, group }: Counts): boolean => path !== undefined && (killsIn(path) ?? 0) > (group ?? 0)
    const machine = machineKills()
    const machineGrew = machine !== undefined && machine > (this.#before.machine ?? machine)
    const killed = grown(this.#last) || grown(this.#before) || machineGrew
    if (killed) attributed++
    return killed
  }

  #count(): Counts {
    const path = counterOf(this.#pid)
    return { path, group: path === undefined ? undefined : killsIn(path), machine: machineKills() }
  }
}

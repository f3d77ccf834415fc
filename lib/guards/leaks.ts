/** What a process holds now that it did not hold before: handles, files, native memory, children, folders of its own. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import type { EngineError } from '../errors/index.js'
import { createError, errnoOf } from '../errors/index.js'
import type { Counters, NativeAddon } from '../native.js'

/** What is there beyond what was when the watch began; empty where nothing is. */
export interface LeakReport {
  /** What keeps the event loop running, by kind: how many more there are. */
  handles: Record<string, number>
  /** Open descriptors, as `12 /path` or `14 socket:[4711]`. */
  files: string[]
  /** Counters of the addon that have grown. */
  native: Partial<Counters>
  /** Process ids of children. */
  processes: number[]
  /** Folders of this library in the system's folder for temporary files. */
  temporary: string[]
}

interface Holdings {
  handles: Map<string, number>
  files: Set<string>
  native: Counters
  processes: Set<number>
  temporary: Set<string>
}

/** How folders for temporary files begin that this library makes. */
const ownPrefix = 'tiered-moe-'
const lookMs = 5
/** Where Linux lists the descriptors of the process. */
const descriptors = '/proc/self/fd'

export class LeakWatch {
  readonly #addon: Pick<NativeAddon, 'counters'>
  readonly #before: Holdings

  private constructor(addon: Pick<NativeAddon, 'counters'>) {
    this.#addon = addon
    this.#before = holdings(addon)
  }

  /** Notes what there is now. */
  static begin(addon: Pick<NativeAddon, 'counters'>): LeakWatch {
    return new LeakWatch(addon)
  }

  /** What there is beyond it once garbage is collected, for `settleMs` at most: what is being closed needs some turns of the event loop. */
  async check(settleMs = 1000): Promise<LeakReport> {
    const end = performance.now() + settleMs
    for (;;) {
      const report = beyond(this.#before, holdings(this.#addon))
      if (isClean(report) || performance.now() >= end) return report
      collectGarbage()
      await sleep(lookMs)
    }
  }

  /** Throws RESOURCE_LEAK_DETECTED {leakedProcesses, leakedTempFiles, leakedHandles, leakedFiles, leakedNative}. */
  async assert(settleMs?: number): Promise<void> {
    const report = await this.check(settleMs)
    if (!isClean(report)) throw leakError(report)
  }
}

export function leakError({ handles, files, native, processes, temporary }: LeakReport): EngineError {
  const parts = [
    ...Object.entries(handles).map(([kind, count]) => `${count} of ${kind}`),
    ...files.map((file) => `descriptor ${file}`),
    ...Object.entries(native).map(([name, count]) => `${count} of the addon's ${name}`),
    ...processes.map((pid) => `process ${pid}`),
    ...temporary
  ]
  return createError('RESOURCE_LEAK_DETECTED', `not given back: ${parts.join(', ')}`, {
    leakedProcesses: processes,
    leakedTempFiles: temporary,
    leakedHandles: handles,
    leakedFiles: files,
    leakedNative: native
  })
}

export const isClean = ({ handles, files, native, processes, temporary }: LeakReport): boolean =>
  [handles, native].every((counts) => Object.keys(counts).length === 0) &&
  [files, processes, temporary].every((list) => list.length === 0)

function holdings(addon: Pick<NativeAddon, 'counters'>): Holdings {
  const handles = new Map<string, number>()
  for (const kind of process.getActiveResourcesInfo()) handles.set(kind, (handles.get(kind) ?? 0) + 1)
  return {
    handles,
    files: new Set(openFiles()),
    native: { ...addon.counters() },
    processes: new Set(childProcesses()),
    temporary: new Set(temporaryFolders())
  }
}

function beyond(before: Holdings, now: Holdings): LeakReport {
  const grown = <Key extends string>(entries: Iterable<[Key, number]>, base: (key: Key) => number) =>
    Object.fromEntries(
      [...entries].map(([key, count]): [Key, number] => [key, count - base(key)]).filter(([, more]) => more > 0)
    )
  const newOf = <T>(now: Set<T>, before: Set<T>): T[] => [...now].filter((item) => !before.has(item))
  return {
    handles: grown(now.handles, (kind) => before.handles.get(kind) ?? 0),
    files: newOf(now.files, before.files),
    native: grown(Object.entries(now.native) as [keyof Counters, number][], (name) => before.native[name]),
    processes: newOf(now.processes, before.processes),
    temporary: newOf(now.temporary, before.temporary)
  }
}

/** Descriptors of this process with what they are; none where the system does not list them (Linux does). */
export function openFiles(): string[] {
  return list(descriptors).flatMap((fd) => {
    try {
      const target = readlinkSync(join(descriptors, fd))
      // The listing's own is gone by then; that of its number may be.
      return target.endsWith('/fd') && target.startsWith('/proc/') ? [] : [`${fd} ${target}`]
    } catch {
      return []
    }
  })
}

/** How many descriptors this process has: more than any limit where none is left to read the list with; undefined where the system has none. */
export function countOpenFiles(): number | undefined {
  try {
    return readdirSync(descriptors).length - 1
  } catch (error) {
    return errnoOf(error) === 'EMFILE' ? Number.MAX_SAFE_INTEGER : undefined
  }
}

/** Process ids of this process's children (Linux). */
function childProcesses(): number[] {
  return list('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => parentOf(pid) === process.pid)
}

/** The second field after the command's name, which may have anything in it: proc(5). */
function parentOf(pid: number): number | undefined {
  const text = read(`/proc/${pid}/stat`)
  const fields = text?.slice(text.lastIndexOf(')') + 2).split(' ')
  return fields && Number(fields[1])
}

/** Those of this process: they have a lock that names it. */
function temporaryFolders(): string[] {
  return list(tmpdir())
    .filter((name) => name.startsWith(ownPrefix))
    .map((name) => join(tmpdir(), name))
    .filter((path) => {
      const holder = /"pid":(\d+)/.exec(read(join(path, 'lock')) ?? '')?.[1]
      return Number(holder) === process.pid
    })
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return undefined
  }
}

let collect: (() => void) | undefined

/** What nobody holds any more is no leak. */
function collectGarbage(): void {
  if (!collect) {
    setFlagsFromString('--expose-gc')
    collect = runInNewContext('gc') as () => void
  }
  collect()
}

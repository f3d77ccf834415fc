// What a process holds: native memory and handles, file descriptors, event-loop handles, child processes, temporary files. Linux.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc')

/** How often each text is there. */
function counts(texts) {
  const of = {}
  for (const text of texts) of[text] = (of[text] ?? 0) + 1
  return of
}

/** Targets of a process' descriptors; sockets, pipes and the like without their numbers. */
function descriptors(pid) {
  const folder = `/proc/${pid}/fd`
  return readdirSync(folder).flatMap((name) => {
    try {
      const target = readlinkSync(`${folder}/${name}`)
      return target.startsWith('/proc/') ? [] : [target.replace(/:\[\d+\]$/, '')]
    } catch {
      return []
    }
  })
}

/** Processes whose parent this is, zombies too. */
export function childrenOf(pid) {
  return readdirSync(`/proc/${pid}/task`).flatMap((task) => {
    try {
      return readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean)
    } catch {
      return []
    }
  })
}

/** Of this process, with what its addon counts. */
export function ownState(addon) {
  const { liveBytes, liveHandles, openFiles, activeJobs } = addon.counters()
  return {
    memory: { liveBytes },
    handles: {
      liveHandles,
      activeJobs,
      ...counts(process.getActiveResourcesInfo().filter((kind) => kind !== 'Immediate'))
    },
    files: {
      openFiles,
      ...counts(descriptors('self')),
      ...counts(readdirSync(tmpdir()).map((name) => `temporary ${name}`))
    },
    processes: { children: childrenOf('self').length }
  }
}

/** Of another process, from outside. */
export function stateOf(pid) {
  return {
    files: counts(descriptors(pid)),
    processes: { children: childrenOf(pid).length }
  }
}

/** What differs, as texts; a kind that is not there counts 0. */
export function differences(before, after) {
  return Object.entries(after).flatMap(([kind, now]) => {
    const then = before[kind]
    return [...new Set([...Object.keys(then), ...Object.keys(now)])]
      .filter((name) => (then[name] ?? 0) !== (now[name] ?? 0))
      .map((name) => ({ kind, text: `${name} ${then[name] ?? 0} -> ${now[name] ?? 0}` }))
  })
}

/** What is held once nothing changes any more: sockets and children of what was before may still be ending. */
export async function settled(look) {
  let last = look()
  for (let i = 0, same = 0; i < 50 && same < 3; i++) {
    collect()
    await sleep(5)
    const now = look()
    same = differences(last, now).length === 0 ? same + 1 : 0
    last = now
  }
  return last
}

/** The differences that stay: sockets close and finalizers run a little later. */
export async function lasting(before, look, waitMs = 3000) {
  const until = performance.now() + waitMs
  for (;;) {
    collect()
    await sleep(5)
    const found = differences(before, look())
    if (found.length === 0 || performance.now() > until) return found
    await sleep(20)
  }
}

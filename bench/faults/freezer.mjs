// The kernel's freezer (control groups, version 1) for single threads of this process.
import { mkdirSync, readdirSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { CannotInject } from './row.mjs'

/** Threads of this process. */
export const threads = () => readdirSync('/proc/self/task')

/** A kernel freezer for single threads: {freeze(tid), thaw()}. */
export function freezer() {
  const folder = `/sys/fs/cgroup/freezer/tiered-moe.${process.pid}`
  try {
    mkdirSync(folder)
  } catch {
    throw new CannotInject('no freezer control group can be made here (root, cgroup v1)')
  }
  const state = (word) => writeFileSync(join(folder, 'freezer.state'), word)
  return {
    freeze(tids) {
      for (const tid of tids) writeFileSync(join(folder, 'tasks'), tid)
      state('FROZEN')
    },
    thaw: () => state('THAWED'),
    remove(tids) {
      state('THAWED')
      for (const tid of tids) writeFileSync('/sys/fs/cgroup/freezer/tasks', tid)
      rmdirSync(folder)
    }
  }
}

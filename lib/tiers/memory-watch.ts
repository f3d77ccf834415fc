/** Looks at the machine's memory now and then. */
import { readFileSync } from 'node:fs'
import { freemem, totalmem } from 'node:os'
import { performance } from 'node:perf_hooks'
import { native } from '../native.js'

/** `some avg10` of a pressure file (Linux, Documentation/accounting/psi.rst), in percent; 0 where there is none. */
export function parsePressure(text: string): number {
  const value = Number(/^some avg10=(\d+(?:\.\d+)?)/m.exec(text)?.[1])
  return Number.isFinite(value) ? value : 0
}

/** The pressure file of this process's control group, of version 2; undefined where /proc/self/cgroup names none. */
export function groupPressureFile(groups: string): string | undefined {
  const path = /^0::(\/.*)$/m.exec(groups)?.[1]
  return path && `/sys/fs/cgroup${path === '/' ? '' : path}/memory.pressure`
}

/**
 * The stalls that freed memory helps against: those of this process's own group, and the machine's where it is short. With plenty free the
 * machine's are those of some group at a limit of its own.
 */
export function stallOf(machine: { pressure: string; free: number; total: number }, group: string): number {
  const short = machine.free < plenty * machine.total
  return Math.max(parsePressure(group), short ? parsePressure(machine.pressure) : 0)
}
/** Share of the machine's memory that is plenty. */
const plenty = 0.125

/** '' where there is none. */
function readText(path: string | undefined): string {
  try {
    return path === undefined ? '' : readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

const readStall = (): number =>
  stallOf(
    { pressure: readText('/proc/pressure/memory'), free: freemem(), total: totalmem() },
    readText(groupPressureFile(readText('/proc/self/cgroup')))
  )

export interface MemoryReading {
  at: number
  available: number
  stall: number
}

/** What there is now. */
export const readMemory = (): MemoryReading => ({
  at: performance.now(),
  available: native().availableMemory(),
  stall: readStall()
})

/** Calls `look` with a reading every `everyMs` until it is stopped. It keeps no process alive. */
export function watchMemory(everyMs: number, look: (reading: MemoryReading) => void): () => void {
  const timer = setInterval(() => look(readMemory()), everyMs).unref()
  return () => clearInterval(timer)
}

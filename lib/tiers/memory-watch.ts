/** Looks at the machine's memory now and then. */
import { readFileSync } from 'node:fs'
import { performance } from 'node:perf_hooks'
import { native } from '../native.js'

/** `some avg10` of a pressure file (Linux, Documentation/accounting/psi.rst), in percent; 0 where there is none. */
export function parsePressure(text: string): number {
  const value = Number(/^some avg10=(\d+(?:\.\d+)?)/m.exec(text)?.[1])
  return Number.isFinite(value) ? value : 0
}

function readStall(): number {
  try {
    return parsePressure(readFileSync('/proc/pressure/memory', 'utf8'))
  } catch {
    return 0
  }
}

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

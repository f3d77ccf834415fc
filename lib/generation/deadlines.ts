/** The deadlines of requests. They nest: a request's whole time > that of its inference > that of cleaning up after it. */
import type { CallOptions } from './options.js'

export interface Deadlines {
  /** Milliseconds from the consumer's first call to the last token, where the call does not say. */
  requestMs?: number | undefined
  /** Milliseconds from the first step. */
  inferenceMs?: number | undefined
  /** Milliseconds that a step may take to end once it was cancelled; then its request ends without it. */
  cleanupMs: number
  /** A cancelled step has outlasted cleanupMs; `work` resolves when it ends after all. */
  onOverdue(work: Promise<unknown>): void
}

/** Without deadlines of one's own. Milliseconds; source: SEEDS 1.3, where inference is 25 s. */
const longestCleanup = 5000
const cleanupShare = 1 / 5

/** The time for cleaning up: given, or 5 s, or a fifth of the least deadline around it where that is less. */
export function cleanupTime(cleanupMs: number | undefined, ...around: (number | undefined)[]): number {
  const least = Math.min(...around.filter((ms) => ms !== undefined))
  return cleanupMs ?? Math.min(longestCleanup, least * cleanupShare)
}

/** The deadline that ends a call first, of those that begin with it: the call's own counts before the engine's. */
export const requestTime = (call: CallOptions, { requestMs }: Pick<Deadlines, 'requestMs'>): number | undefined =>
  call.timeoutMs ?? requestMs

/** Waits for work that was told to end, but no longer than cleanupMs: then it is reported as overdue. */
export async function ended(work: Promise<unknown>, { cleanupMs, onOverdue }: Deadlines): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<'late'>((resolve) => {
    timer = setTimeout(() => resolve('late'), cleanupMs)
  })
  const first = await Promise.race([work, late])
  clearTimeout(timer)
  if (first === 'late') onOverdue(work)
}

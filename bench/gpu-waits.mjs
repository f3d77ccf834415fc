// Tells a JavaScript thread's own time from its waiting for a GPU, by what it calls of Dawn's binding: it waits from the end of a submit until
// what is read of it is mapped. Import it before an engine is made.
import { openSync, readSync } from 'node:fs'
import { PerformanceObserver, performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { getHeapStatistics } from 'node:v8'
import { globals } from 'webgpu'

/** Milliseconds that this thread has been ready to run while others had its core; undefined where the system does not tell. */
const waitedForCore = (() => {
  try {
    const file = openSync('/proc/thread-self/schedstat')
    const bytes = Buffer.alloc(128)
    return () => Number(bytes.latin1Slice(0, readSync(file, bytes, 0, 128, 0)).split(' ')[1]) / 1e6
  } catch {
    return undefined
  }
})()

/** Times are those of performance.now(). */
const seen = { waits: [], pauses: [], forCore: 0, garbage: undefined }
let [submitted, core, heap] = [0, 0, 0]

const used = () => getHeapStatistics().used_heap_size
const border = (which) => {
  if (!seen.garbage) return
  const now = used()
  // It shrank: something was collected meanwhile, so what was made is not known.
  if (now >= heap) seen.garbage[which].push(now - heap)
  heap = used()
}

new PerformanceObserver((list) => {
  for (const { startTime, duration } of list.getEntries())
    seen.pauses.push({ start: startTime, end: startTime + duration })
}).observe({ entryTypes: ['gc'] })

const { submit } = globals.GPUQueue.prototype
globals.GPUQueue.prototype.submit = function (...args) {
  const result = submit.apply(this, args)
  if (waitedForCore) seen.forCore += waitedForCore() - core
  border('own')
  submitted = performance.now()
  return result
}
const { mapAsync } = globals.GPUBuffer.prototype
globals.GPUBuffer.prototype.mapAsync = function (...args) {
  const mapped = mapAsync.apply(this, args)
  const start = submitted
  const ended = () => {
    seen.waits.push({ start, end: performance.now() })
    border('waiting')
    if (waitedForCore) core = waitedForCore()
  }
  mapped.then(ended, ended)
  return mapped
}

const overlap = (a, b) => Math.max(0, Math.min(a.end, b.end) - Math.max(a.start, b.start))
const mean = (values) => values.reduce((sum, x) => sum + x, 0) / values.length

/** What was seen while `work` ran; with `garbage` what the thread makes is counted too, which takes time of its own. */
export async function watched(work, { garbage = false } = {}) {
  Object.assign(seen, { waits: [], pauses: [], forCore: 0, garbage: garbage ? { own: [], waiting: [] } : undefined })
  core = waitedForCore?.() ?? 0
  heap = used()
  const span = { start: performance.now(), end: 0 }
  const result = await work()
  span.end = performance.now()
  // The observer is told of pauses later.
  await sleep(20)
  const pauses = seen.pauses.filter((pause) => overlap(pause, span) > 0)
  const all = pauses.reduce((sum, { start, end }) => sum + end - start, 0)
  const whileWaiting = pauses.reduce((sum, pause) => sum + seen.waits.reduce((s, w) => s + overlap(pause, w), 0), 0)
  return {
    result,
    /** Milliseconds: the collector's pauses, in the thread's own time and while it waited. */
    collector: { own: all - whileWaiting, waiting: whileWaiting },
    /** Milliseconds of the own time in which other threads had the core. */
    forCore: waitedForCore && seen.forCore,
    /** Bytes that were made, mean of what lies between two borders. */
    garbage: seen.garbage && { own: mean(seen.garbage.own), waiting: mean(seen.garbage.waiting) }
  }
}

// The thread that watches over child.mjs: an input that takes too long, or too much memory, ends the process, with the reason on stderr.
import { readFileSync, writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { workerData } from 'node:worker_threads'

const { shared, limits } = workerData
const pageBytes = 4096
const resident = () => Number(readFileSync('/proc/self/statm', 'utf8').split(' ')[1]) * pageBytes
const spent = () => {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

function end(reason) {
  writeSync(2, `${reason}\n`)
  process.kill(process.pid, 'SIGKILL')
}

let [number, since, from] = [0, 0, 0]
for (;;) {
  await sleep(20)
  const now = Atomics.load(shared, 0)
  if (now !== number) [number, since, from] = [now, spent(), performance.now()]
  if (number === 0) continue
  const took = spent() - since
  if (took > Atomics.load(shared, 1)) Atomics.store(shared, 1, Math.round(took))
  if (took > limits.hangMs) end(`it took more than ${limits.hangMs} ms`)
  if (performance.now() - from > limits.waitMs) end(`it waited for more than ${limits.waitMs} ms`)
  const bytes = resident()
  if (bytes > limits.bytes) end(`the process has ${Math.round(bytes / 2 ** 20)} MiB of memory`)
}

// Started by files.test.ts with a low limit of descriptors: takes all that are left, and prints how what needs one fails.
import { closeSync, openSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { createEngine, pullFile, readTrace } from 'tiered-moe'

const [, , folder, trace] = process.argv
const outcome = (work) =>
  work().then(
    () => 'no failure',
    ({ code, httpStatus, retryable, details: { errno, resourceInfo } }) => ({
      code,
      httpStatus,
      retryable,
      errno,
      resourceInfo
    })
  )
const events = []
const engine = await createEngine({ threads: 1, guards: { filesLow: 8 }, onEvent: (event) => events.push(event) })
await engine.loadModel()
await engine.unloadModel('tiny-shakespeare')
const { openFiles } = engine.counters()
const taken = []
try {
  for (;;) taken.push(openSync('/dev/null'))
} catch {}
while (!events.some(({ event }) => event === 'resource_low')) await sleep(20)
const native = await outcome(() => engine.loadModel())
const read = await outcome(() => readTrace(trace))
const write = await outcome(() => pullFile({ url: 'http://127.0.0.1:1/x', to: `${folder}/x` }))
for (const descriptor of taken) closeSync(descriptor)
const after = await outcome(() => engine.loadModel())
while (events.filter(({ event }) => event === 'resource_low').length < 2) await sleep(20)
const low = events.filter(({ event }) => event === 'resource_low').map(({ level, fields }) => ({ level, ...fields }))
const back = engine.counters().openFiles - openFiles
await engine.dispose()
console.log(JSON.stringify({ native, read, write, after, low, back }))

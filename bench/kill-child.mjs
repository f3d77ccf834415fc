// The process that the kill test kills: serves some requests at a time with a journal while experts are swapped and persisted, and says on
// stdout what it has promised. argv[2]: {journal, threads, load: as loadModel takes it, source: the file with the first weights of all experts,
// seed, wanted: numbers of requests not done, concurrent, swaps: {done, begun}, began: {requestId: swaps that were done then}, swapSeed}.
// Lines: recovered, ready, begins, accepted, done, gone, swapping, swapped, persisting, persisted, end, failed.
import { setTimeout as sleep } from 'node:timers/promises'
import { createEngine } from '../dist/esm/index.js'
import { seededRandom } from './harness.mjs'
import { changesOfSwap, fingerprint, requestOf } from './kill-plan.mjs'

const { journal, threads, load, source, seed, wanted, concurrent, swaps, began, swapSeed } = JSON.parse(process.argv[2])
/** Milliseconds between two swaps, at most. */
const swapSpan = 120
/** Swaps since the oldest request began, at most: the budget has room for few versions of experts. */
const mostSwaps = 4
// Writes to a pipe are done when console.log returns, so what the parent reads had really happened.
const say = (what, value) => console.log(`${what} ${JSON.stringify(value)}`)

try {
  const engine = await createEngine({ threads, journal })
  say('recovered', { ...engine.recovered, routingSeed: undefined })
  await engine.loadModel(load)
  const { budget, all } = engine.listModels()[0].memory.experts
  say('ready', { budget, all })
  const known = new Map(engine.recovered.requests.map((request) => [request.requestId, request]))
  const unfinished = new Map([...known.keys()].map((requestId) => [requestId, began[requestId]]))
  const left = [...new Set([...known.keys(), ...wanted.map((i) => `request-${i}`)])]

  async function serve(requestId) {
    const request = requestOf(seed, Number(requestId.slice('request-'.length)))
    let generator
    if (known.has(requestId)) generator = await engine.resumeGenerator({ requestId })
    else {
      unfinished.set(requestId, swaps.done)
      say('begins', { requestId, swaps: swaps.done })
      generator = engine.createGenerator(request)
      await generator.accepted()
      say('accepted', { requestId, swaps: swaps.begun })
    }
    const items = []
    for await (const item of generator) items.push(item)
    // With what the client had before the crash: only the rest, the same as the end of the whole.
    const from = Math.floor(items.length / 2)
    const rest = []
    for await (const item of await engine.resumeGenerator({ requestId, from })) rest.push(item)
    const same = fingerprint(rest) === fingerprint(items.slice(from))
    say('done', { requestId, print: fingerprint(items), same, cached: items.at(-1).usage.cachedTokens })
    await engine.acknowledgeRequest({ requestId })
    unfinished.delete(requestId)
    say('gone', requestId)
  }

  let serving = true
  async function swapNowAndThen() {
    const random = seededRandom(swapSeed)
    for (;;) {
      await sleep(random() * swapSpan)
      if (!serving) return
      if (swaps.done - Math.min(swaps.done, ...unfinished.values()) >= mostSwaps) continue
      // What a crash left undone, or unsaid, is done again.
      swaps.begun = swaps.done + 1
      say('swapping', swaps.begun)
      await engine.swapExperts(load.id, changesOfSwap(seed, swaps.begun, source))
      swaps.done = swaps.begun
      say('swapped', swaps.done)
      if (random() < 0.4) continue
      say('persisting', swaps.done)
      await engine.persistExperts(load.id)
      say('persisted', swaps.done)
    }
  }

  const served = Array.from({ length: concurrent }, async () => {
    for (let next = left.shift(); next; next = left.shift()) await serve(next)
  })
  const allServed = Promise.all(served).then(() => {
    serving = false
  })
  await Promise.all([allServed, swapNowAndThen()])
  await engine.dispose()
  say('end', {})
} catch (error) {
  say('failed', { code: error.code, message: error.message, details: error.details })
  process.exit(1)
}

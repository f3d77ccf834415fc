// The process that the kill test kills: serves some requests at a time with a journal, and says on stdout what it has promised.
// argv[2]: {journal, threads, seed, wanted: ids of requests not done, concurrent}. Lines: ready, recovered, accepted, done, gone.
import { createEngine } from '../dist/esm/index.js'
import { fingerprint, requestOf } from './kill-plan.mjs'

const { journal, threads, seed, wanted, concurrent } = JSON.parse(process.argv[2])
// Writes to a pipe are done when console.log returns, so what the parent reads had really happened.
const say = (what, value) => console.log(`${what} ${JSON.stringify(value)}`)

try {
  const engine = await createEngine({ threads, journal })
  say('recovered', { ...engine.recovered, routingSeed: undefined })
  await engine.loadModel()
  say('ready', {})
  const known = new Map(engine.recovered.requests.map((request) => [request.requestId, request]))
  const left = [...new Set([...known.keys(), ...wanted.map((i) => `request-${i}`)])]

  async function serve(requestId) {
    const request = requestOf(seed, Number(requestId.slice('request-'.length)))
    let generator
    if (known.has(requestId)) generator = await engine.resumeGenerator({ requestId })
    else {
      generator = engine.createGenerator(request)
      await generator.accepted()
      say('accepted', requestId)
    }
    const items = []
    for await (const item of generator) items.push(item)
    // With what the client had before the crash: only the rest, the same as the end of the whole.
    const from = Math.floor(items.length / 2)
    const rest = []
    for await (const item of await engine.resumeGenerator({ requestId, from })) rest.push(item)
    const same = fingerprint(rest) === fingerprint(items.slice(from))
    say('done', { requestId, print: fingerprint(items), same })
    await engine.acknowledgeRequest({ requestId })
    say('gone', requestId)
  }

  await Promise.all(
    Array.from({ length: concurrent }, async () => {
      for (let next = left.shift(); next; next = left.shift()) await serve(next)
    })
  )
  await engine.dispose()
  say('end', {})
} catch (error) {
  say('failed', { code: error.code, message: error.message, details: error.details })
  process.exit(1)
}

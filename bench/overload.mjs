// A server under ten times the load that it can serve: what is refused is refused early and says when to come again, and what it can serve it
// goes on serving. First the peak, by a closed loop of as many requests as run at a time; then an open loop at ten times that rate, of two
// clients; then the peak again. Every request has to end in a text or in a typed refusal with Retry-After, and no client may starve.
//   node bench/overload.mjs            2 s of peak, 3 s of load: what each request comes to; the figures are shown
//   node bench/overload.mjs --full     10 s of peak, 60 s of load: goodput >= 90 % of the peak, p99 of refusals < 50 ms, memory flat
//   node bench/overload.mjs --seconds N --peak-seconds N --times X --threads N
// Memory is what is live after a collection (V8's heap, its buffers, the addon's bytes): V8's garbage comes and goes by its own rules. Judged is what
// is left of the load when it is over, and how that grows in the last third of it.
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { Agent } from 'node:http'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { environment, percentile, printEnvironment, printTable, root, show, writeReport } from './harness.mjs'
import { Client, startServing } from './serve.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    seconds: { type: 'string' },
    'peak-seconds': { type: 'string' },
    times: { type: 'string', default: '10' },
    // One is left to HTTP, and to whoever asks.
    threads: { type: 'string', default: String(Math.max(1, availableParallelism() - 1)) }
  }
})
const loadSeconds = Number(options.seconds ?? (options.full ? 60 : 3))
const peakSeconds = Number(options['peak-seconds'] ?? (options.full ? 10 : 2))
const times = Number(options.times)
const concurrency = 10
/** So long that ten times as many requests are some hundreds a second: what asks for them shares the machine. */
const maxTokens = 200
/** Milliseconds that the server gives a request, and that a client waits beyond. */
const [deadlineMs, graceMs] = [30_000, 5000]
const clients = ['one', 'two']
const keyOf = (client) => `sk-overload-${client}`

const work = mkdtempSync(join(tmpdir(), 'tiered-moe-overload-'))
process.on('exit', () => rmSync(work, { recursive: true, force: true }))

const key = (id) => ({ id, sha256: createHash('sha256').update(keyOf(id)).digest('hex') })
const settings = {
  engine: { threads: Number(options.threads) },
  server: { keys: clients.map(key), deadlines: { request_ms: deadlineMs } },
  admission: { concurrency }
}
const { child, url, ended } = await startServing(work, settings, {
  args: ['--log', 'off'],
  nodeArgs: ['--expose-gc', '--import', join(root, 'bench', 'live-memory.mjs')],
  ipc: true
})
process.on('exit', () => child.kill('SIGKILL'))
const server = new Client(url)
const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY })
let sent = 0

/** Sends one request; resolves with what became of it. */
async function ask(client) {
  const began = performance.now()
  const fields = { max_tokens: maxTokens, seed: ++sent, temperature: 1 }
  const answer = await server.complete(fields, { agent, key: keyOf(client), timeout: deadlineMs + graceMs }).then(
    ({ status, headers, body: { error, usage } = {} }) => ({
      status,
      reason: error && `${error.code} ${error.details.reason ?? ''}`.trim(),
      retryAfter: headers['retry-after'],
      tokens: usage?.completion_tokens ?? 0
    }),
    (error) => ({ status: 0, error: error.message })
  )
  return { client, began, ms: performance.now() - began, ...answer }
}

/** What the server holds after some collections. */
async function liveMemory(collections = 1) {
  child.send({ collections })
  const [held] = await once(child, 'message')
  return { ...held, live: held.heap + held.external + held.native }
}

/** The same once nobody asks for anything. */
async function settledMemory() {
  agent.destroy()
  await sleep(200)
  return liveMemory(5)
}

/** Texts a second where there are always as many requests as may run. */
async function measurePeak(seconds) {
  const end = performance.now() + seconds * 1000
  let done = 0
  const loop = async (i) => {
    while (performance.now() < end) {
      const { status } = await ask(clients[i % clients.length])
      if (status === 200 && performance.now() < end) done++
    }
  }
  await Promise.all(Array.from({ length: concurrency }, (_, i) => loop(i)))
  return done / seconds
}

/** Requests at a fixed rate, whatever becomes of them. */
async function load(rate, seconds) {
  const answers = []
  const began = performance.now()
  // A collection stops the server for 100 ms: only when a third is over, or they would be what the slowest hundredth of the refusals waits for.
  const samples = [1, 2, 3].map((third) => sleep((third * seconds * 1000) / 3).then(() => liveMemory()))
  const total = Math.round(rate * seconds)
  for (let i = 0; i < total; ) {
    const due = ((performance.now() - began) / 1000) * rate
    for (; i < Math.min(due, total); i++) answers.push(ask(clients[i % clients.length]))
    await sleep(1)
  }
  const memory = await Promise.all(samples)
  const all = await Promise.all(answers)
  const until = began + seconds * 1000
  return {
    all,
    memory,
    texts: all.filter((one) => one.status === 200 && one.began + one.ms <= until).length / seconds
  }
}

const stamp = environment()
printEnvironment(stamp)
await measurePeak(peakSeconds / 2)
const peak = await measurePeak(peakSeconds)
const rate = peak * times
console.log(`peak: ${show(peak)} texts/s of ${maxTokens} tokens, ${concurrency} at a time, ${options.threads} threads`)
const before = await settledMemory()
const { all, memory, texts } = await load(rate, loadSeconds)
const after = await settledMemory()
const peakAfter = await measurePeak(peakSeconds)
// Ten seconds of the same work differ by a fifth on a machine whose wake-ups are slow.
const usualPeak = (peak + peakAfter) / 2
console.log(`peak after the load: ${show(peakAfter)} texts/s`)

const refused = all.filter(({ status }) => status === 503 || status === 429)
const wrong = all.filter(
  ({ status, retryAfter }) => status !== 200 && !((status === 503 || status === 429) && Number(retryAfter) >= 1)
)
const served = Object.fromEntries(
  clients.map((client) => [client, all.filter((one) => one.client === client && one.status === 200).length])
)
const leastShare =
  (Math.min(...Object.values(served)) * clients.length) /
  Math.max(
    1,
    Object.values(served).reduce((a, b) => a + b)
  )
const times99 = percentile(
  refused.map(({ ms }) => ms),
  0.99
)
/** In the last third. */
const growthOf = (pick) => pick(memory.at(-1)) - pick(memory.at(-2))
const growth = growthOf(({ live }) => live)
const residentGrowth = growthOf(({ resident }) => resident)
const left = after.live - before.live
const reasons = new Map()
for (const { reason } of refused) reasons.set(reason, (reasons.get(reason) ?? 0) + 1)

printTable(
  [
    'requests',
    'texts',
    'refused',
    'neither',
    'goodput',
    'of the peak',
    'refused: p50 ms',
    'p99 ms',
    'served: p99 ms',
    'live MiB',
    'growth',
    'resident MiB',
    'growth'
  ],
  [
    [
      all.length,
      all.length - refused.length - wrong.filter(({ status }) => status !== 503 && status !== 429).length,
      refused.length,
      wrong.length,
      `${show(texts)}/s`,
      `${show((100 * texts) / usualPeak)} %`,
      show(
        percentile(
          refused.map(({ ms }) => ms),
          0.5
        )
      ),
      show(times99),
      show(
        percentile(
          all.filter(({ status }) => status === 200).map(({ ms }) => ms),
          0.99
        )
      ),
      show(memory.at(-1).live / 2 ** 20),
      show(growth / 2 ** 20),
      show(memory.at(-1).resident / 2 ** 20),
      show(residentGrowth / 2 ** 20)
    ]
  ]
)
const figures = ({ live, heap, native, resident, sockets }) => [
  ...[live, heap, native, resident].map((bytes) => show(bytes / 2 ** 20)),
  sockets
]
printTable(
  ['memory, MiB', 'live', "of that V8's heap", 'the addon', 'resident', 'sockets'],
  [
    ['before the load', ...figures(before)],
    ['under it', ...figures(memory.at(-1))],
    ['after it', ...figures(after)]
  ]
)
for (const [reason, count] of reasons) console.log(`  refused, ${reason}: ${count}`)
console.log(
  `  texts by client: ${Object.entries(served)
    .map(([client, count]) => `${client} ${count}`)
    .join(', ')}`
)

const faults = []
const must = (holds, text) => holds || faults.push(text)
for (const { status, error, reason } of wrong.slice(0, 5))
  faults.push(`a request ended with ${status} ${error ?? reason}`)
must(wrong.length === 0, `${wrong.length} requests have neither a text nor a refusal with Retry-After`)
must(refused.length > 0, 'nothing was refused: there was no overload')
must(leastShare >= 0.5, `a client had ${show(100 * leastShare)} % of its share`)
if (options.full) {
  must(texts >= 0.9 * usualPeak, `goodput fell to ${show((100 * texts) / usualPeak)} % of the mean of both peaks`)
  must(times99 < 50, `p99 of refusals is ${show(times99)} ms`)
  must(left < 8 * 2 ** 20, `the load left ${show(left / 2 ** 20)} MiB behind`)
  must(growth < 16 * 2 ** 20, `live memory grew by ${show(growth / 2 ** 20)} MiB in the last third`)
}
const memories = { growth, before, memory, after }
writeReport('overload.json', { stamp, peak, peakAfter, rate, texts, refusedP99: times99, served, ...memories, faults })
child.kill('SIGTERM')
const code = await ended
must(code === 0, `the server ended with ${code}`)
agent.destroy()
for (const fault of faults) console.log(`FAILED: ${fault}`)
console.log(faults.length === 0 ? 'overload: every request had its answer' : `overload: ${faults.length} faults`)
process.exitCode = faults.length === 0 ? 0 : 1

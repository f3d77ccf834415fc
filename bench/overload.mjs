// A server under ten times the load that it can serve: what is refused is refused early and says when to come again, and what it can serve it
// goes on serving. First the peak, by a closed loop of as many requests as run at a time; then an open loop at ten times that rate, of two
// clients. Every request has to end in a text or in a typed refusal with Retry-After, and no client may starve.
//   node bench/overload.mjs            2 s of peak, 3 s of load: what each request comes to; the figures are shown
//   node bench/overload.mjs --full     10 s of peak, 60 s of load: goodput >= 90 % of the peak, p99 of refusals < 50 ms, memory flat
//   node bench/overload.mjs --seconds N --peak-seconds N --times X --threads N
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { Agent, request } from 'node:http'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import {
  environment,
  mebibytes,
  percentile,
  printEnvironment,
  printTable,
  root,
  show,
  writeReport
} from './harness.mjs'

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

/** `tiered-moe serve` with a key for each client, on a free port. */
async function startServer() {
  const sha256 = (text) => createHash('sha256').update(text).digest('hex')
  const config = join(work, 'server.json')
  const keys = clients.map((id) => ({ id, sha256: sha256(keyOf(id)) }))
  const server = { port: 0, keys, deadlines: { request_ms: deadlineMs } }
  writeFileSync(config, JSON.stringify({ server, admission: { concurrency } }))
  const args = ['serve', '--config', config, '--json', '--log', 'off', '--threads', options.threads]
  const child = spawn(process.execPath, [join(root, 'dist', 'esm', 'cli', 'main.js'), ...args], {
    stdio: ['ignore', 'pipe', 'inherit']
  })
  process.on('exit', () => child.kill('SIGKILL'))
  for await (const line of createInterface({ input: child.stdout })) return { child, ...JSON.parse(line) }
  throw new Error('the server did not start')
}

const { child, url, models } = await startServer()
const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY })
let sent = 0

/** Sends one request; resolves with what became of it. */
function ask(client) {
  const body = JSON.stringify({
    model: models[0],
    prompt: 'ROMEO:',
    max_tokens: maxTokens,
    seed: ++sent,
    temperature: 1
  })
  const began = performance.now()
  return new Promise((resolve) => {
    const end = (fields) => resolve({ client, began, ms: performance.now() - began, ...fields })
    const asked = request(`${url}/v1/completions`, {
      agent,
      method: 'POST',
      timeout: deadlineMs + graceMs,
      headers: {
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(body),
        authorization: `Bearer ${keyOf(client)}`
      }
    })
    asked.on('timeout', () => asked.destroy(new Error('no end within its deadline')))
    asked.on('error', (error) => end({ status: 0, error: error.message }))
    asked.on('response', (reply) => {
      const parts = []
      reply.on('data', (part) => parts.push(part))
      reply.on('error', (error) => end({ status: 0, error: error.message }))
      reply.on('end', () => {
        const { error, usage } = JSON.parse(Buffer.concat(parts).toString())
        const retryAfter = reply.headers['retry-after']
        const reason = error && `${error.code} ${error.details.reason ?? ''}`.trim()
        end({ status: reply.statusCode, reason, retryAfter, tokens: usage?.completion_tokens ?? 0 })
      })
    })
    asked.end(body)
  })
}

const residentBytes = () => Number(readFileSync(`/proc/${child.pid}/statm`, 'utf8').split(' ')[1]) * 4096
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

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
  const resident = []
  const began = performance.now()
  const sampling = setInterval(() => resident.push(residentBytes()), Math.min(1000, (seconds * 1000) / 10))
  const total = Math.round(rate * seconds)
  for (let i = 0; i < total; ) {
    const due = ((performance.now() - began) / 1000) * rate
    for (; i < Math.min(due, total); i++) answers.push(ask(clients[i % clients.length]))
    await sleep(1)
  }
  const all = await Promise.all(answers)
  clearInterval(sampling)
  const until = began + seconds * 1000
  return {
    all,
    resident,
    texts: all.filter((one) => one.status === 200 && one.began + one.ms <= until).length / seconds
  }
}

const stamp = environment()
printEnvironment(stamp)
await measurePeak(peakSeconds / 2)
const peak = await measurePeak(peakSeconds)
const rate = peak * times
console.log(`peak: ${show(peak)} texts/s of ${maxTokens} tokens, ${concurrency} at a time, ${options.threads} threads`)
const { all, resident, texts } = await load(rate, loadSeconds)

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
const third = Math.max(1, Math.floor(resident.length / 3))
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length
const growth = mean(resident.slice(-third)) - mean(resident.slice(third, 2 * third))
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
    'MiB',
    'growth MiB'
  ],
  [
    [
      all.length,
      all.length - refused.length - wrong.filter(({ status }) => status !== 503 && status !== 429).length,
      refused.length,
      wrong.length,
      `${show(texts)}/s`,
      `${show((100 * texts) / peak)} %`,
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
      mebibytes(resident.at(-1)),
      show(growth / 2 ** 20)
    ]
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
  must(texts >= 0.9 * peak, `goodput fell to ${show((100 * texts) / peak)} % of the peak`)
  must(times99 < 50, `p99 of refusals is ${show(times99)} ms`)
  must(growth < 16 * 2 ** 20, `memory grew by ${show(growth / 2 ** 20)} MiB in the last third`)
}
writeReport('overload.json', { stamp, peak, rate, texts, refusedP99: times99, served, growth, resident, faults })
child.kill('SIGTERM')
const code = await new Promise((resolve) => child.once('exit', resolve))
must(code === 0, `the server ended with ${code}`)
agent.destroy()
for (const fault of faults) console.log(`FAILED: ${fault}`)
console.log(faults.length === 0 ? 'overload: every request had its answer' : `overload: ${faults.length} faults`)
process.exit(faults.length === 0 ? 0 : 1)

// What the prefix cache saves: requests that begin with the same text, such as a system's prompt, with the cache and without.
//   node bench/prefix.mjs                  the embedded model, a beginning of 192 tokens
//   node bench/prefix.mjs --full           and the OLMoE shape of 7 billion parameters, a beginning of 512
// Judged are counts, which are the same on every machine: with the cache every request after the first computes what follows the beginning's whole
// pages, and no more; the texts are equal. The time to the first token is shown beside them.
import { parseArgs } from 'node:util'
import { createEngine } from '../dist/esm/index.js'
import {
  environment,
  printEnvironment,
  printTable,
  randomTokens,
  showSpread,
  summarise,
  writeReport
} from './harness.mjs'
import { bigModel, embeddedModel } from './models.mjs'

const { values: options } = parseArgs({
  options: { full: { type: 'boolean', default: false }, threads: { type: 'string', default: '2' } }
})
/** Positions of a page of KV cache: shared are whole ones. */
const page = 64
const maxTokens = 4

/** The requests one after another, in an engine of their own. */
async function serve(path, prefixCache, prompts) {
  const engine = await createEngine({ threads: Number(options.threads) })
  try {
    const { id } = await engine.loadModel({ model: path, ...(prefixCache === false && { prefixCache }) })
    await engine.generate({ model: id, promptTokens: [1], maxTokens: 2 })
    const requests = []
    for (const promptTokens of prompts) {
      const began = performance.now()
      const generator = engine.createGenerator({ model: id, promptTokens, maxTokens, temperature: 0, ignoreEos: true })
      const tokens = [(await generator.next()).value.token]
      const firstMs = performance.now() - began
      let usage
      for await (const item of generator) {
        if (item.finishReason) usage = item.usage
        else tokens.push(item.token)
      }
      requests.push({ tokens, firstMs, computed: usage.promptTokens - usage.cachedTokens })
    }
    return { requests, ...engine.modelStats(id).prefixCache }
  } finally {
    await engine.dispose()
  }
}

async function measure(name, path, common, count) {
  const begin = randomTokens(common, 1000, 1)
  const prompts = Array.from({ length: count }, (_, i) => [...begin, ...randomTokens(8 + 4 * i, 1000, 2 + i)])
  const plain = await serve(path, false, prompts)
  const cached = await serve(path, undefined, prompts)
  const sum = ({ requests }) => requests.reduce((total, { computed }) => total + computed, 0)
  const shared = Math.floor(common / page) * page
  const expected = prompts.reduce((total, { length }) => total + length, 0)
  const first = ({ requests }) => summarise(requests.slice(1).map(({ firstMs }) => firstMs))
  return {
    name,
    common,
    count,
    computed: { plain: sum(plain), cached: sum(cached), expected: expected - (count - 1) * shared },
    firstMs: { plain: first(plain), cached: first(cached) },
    bytes: cached.bytes,
    equal: plain.requests.every(({ tokens }, i) => tokens.join() === cached.requests[i].tokens.join()),
    kept: sum(plain) === expected && sum(cached) === expected - (count - 1) * shared
  }
}

const stamp = environment()
printEnvironment(stamp)
const measured = [await measure('tiny-shakespeare', embeddedModel, 192, 8)]
const big = options.full ? await bigModel() : undefined
if (big) measured.push(await measure('olmoe-1b-7b, Q4_0', big, 512, 6))
printTable(
  [
    'model',
    'beginning',
    'requests',
    'computed without',
    'with the cache',
    'share',
    'texts',
    'first token, ms',
    'with the cache'
  ],
  measured.map(({ name, common, count, computed, firstMs, equal }) => [
    name,
    common,
    count,
    computed.plain,
    computed.cached,
    (computed.cached / computed.plain).toFixed(3),
    equal ? 'equal' : 'DIFFER',
    showSpread(firstMs.plain),
    showSpread(firstMs.cached)
  ])
)
for (const { name, computed, kept, equal } of measured) {
  console.log(
    `${kept && equal ? 'kept' : 'MISSED'}: ${name} computes ${computed.expected} of ${computed.plain} tokens of prompts`
  )
  if (!kept || !equal) process.exitCode = 1
}
console.log(`written: ${writeReport('prefix.json', { environment: stamp, measured })}`)

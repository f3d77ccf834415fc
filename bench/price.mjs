// The price list of a model in tiers: what each TierSet costs and gives, as a table and as a picture.
//   node bench/price.mjs            the embedded model, converted into three tiers by how often a text uses its experts
//   node bench/price.mjs --full     the OLMoE shape of 7 billion parameters too
//   … --pictures                    writes the pictures of the README into docs/pictures
// Memory is what always stays and room for --share of the experts, so that the tiers compete for it.
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { convertModel, createEngine } from '../dist/esm/index.js'
import { environment, outputFolder, printEnvironment, printTable, root, show, writeReport } from './harness.mjs'
import { bigModel, embeddedModel } from './models.mjs'
import { groupedBars } from './plot.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    pictures: { type: 'boolean', default: false },
    share: { type: 'string', default: '0.6' },
    decode: { type: 'string' },
    tokens: { type: 'string' }
  }
})
const text = join(root, 'models', 'tiny-shakespeare-scene.txt')

/** How often each expert is used by the text, [layer][expert], and what the model's memory is made of. */
async function measureUse(model, tokens) {
  const engine = await createEngine()
  try {
    const { id, descriptor } = await engine.loadModel({ model })
    const { contextLength, memory } = engine.listModels()[0]
    const all = (await engine.tokenize({ model: id, text: readFileSync(text, 'utf8') })).tokens.slice(0, tokens)
    const counts = Array.from({ length: descriptor.layers }, () => new Array(descriptor.experts).fill(0))
    const window = Math.min(256, contextLength)
    for (let at = 0; at < all.length; at += window) {
      const own = all.slice(at, at + window)
      const { routing } = await engine.forward({ model: id, tokens: own, captureRouting: true })
      const { layers, k, ids } = routing
      for (const [i, expert] of ids.entries()) counts[Math.floor(i / k) % layers][expert]++
    }
    return { counts, memory }
  } finally {
    await engine.dispose()
  }
}

/** The more used half of each layer is hot, the next quarter warm, the rest cold. */
function tiersBy(counts) {
  const byUse = counts.map((layer) => layer.map((_, e) => e).sort((a, b) => layer[b] - layer[a] || a - b))
  const part = (from, to) =>
    Object.fromEntries(byUse.map((order, layer) => [layer, order.slice(from * order.length, to * order.length)]))
  return [
    { name: 'hot', placement: 'hot', experts: part(0, 0.5) },
    { name: 'warm', placement: 'warm', experts: part(0.5, 0.75) },
    { name: 'cold', placement: 'cold', experts: part(0.75, 1) }
  ]
}

async function priceList(name, model, { tokens, decode }) {
  const { counts, memory } = await measureUse(model, tokens)
  const folder = join(process.env.TIERED_MOE_BENCH_MODELS ?? join(outputFolder, 'models'), `price-${name}.checkpoint`)
  await convertModel({ from: model, to: folder, tiers: tiersBy(counts), replace: true })
  const bytes = Math.ceil(memory.base + memory.keyValues + memory.arena + Number(options.share) * memory.experts.all)
  const args = ['price', folder, '--json', '--text', text, '--tokens', tokens, '--decode', decode, '--memory', bytes]
  const main = join(root, 'dist/esm/cli/main.js')
  const output = execFileSync(process.execPath, [main, ...args.map(String)], { encoding: 'utf8', maxBuffer: 2 ** 26 })
  return JSON.parse(output)
}

function picture(name, { prices }, share) {
  const priced = prices.filter(({ reason }) => reason === undefined)
  const bar = (median, max = median) => ({ median, min: median, max })
  const series = priced.map((price) => ({
    name: price.names.join(', '),
    values: [
      bar(price.perplexity),
      bar(100 * price.hitRate),
      bar(price.p50, price.p99),
      bar(price.bytesPerToken / 2 ** 20)
    ]
  }))
  const groups = ['perplexity', 'hit rate, %', 'ms a token, p50–p99', 'MiB read a token']
  const unit = `room for ${100 * share} % of the experts`
  const note = 'each group has its own scale; more is better of the hit rate alone'
  return groupedBars({ title: `What a TierSet of ${name} costs and gives`, unit, groups, series, note })
}

const stamp = environment()
printEnvironment(stamp)
const big = options.full ? await bigModel() : undefined
const models = [
  { name: 'tiny-shakespeare', model: embeddedModel, tokens: Number(options.tokens ?? 1024), decode: 64 },
  ...(big ? [{ name: 'olmoe-1b-7b', model: big, tokens: Number(options.tokens ?? 256), decode: 32 }] : [])
]
for (const { name, model, tokens, decode } of models) {
  const list = await priceList(name, model, { tokens, decode: Number(options.decode ?? decode) })
  const total = list.prices[0].of ?? list.prices.at(-1).of
  console.log(`\n${name}: ${tokens} tokens of a text, ${options.share} of ${total} experts in memory`)
  printTable(
    ['TierSet', 'tiers', 'experts', 'perplexity', 'hit rate %', 'late %', 'p50 ms', 'p99 ms', 'MiB a token'],
    list.prices.map((p) =>
      p.reason
        ? [p.names.join(', '), p.tiers.join(' + '), 'too few']
        : [
            p.names.join(', '),
            p.tiers.join(' + '),
            p.experts,
            p.perplexity.toFixed(2),
            show(100 * p.hitRate),
            show(100 * p.lateRate),
            show(p.p50),
            show(p.p99),
            show(p.bytesPerToken / 2 ** 20)
          ]
    )
  )
  const svg = picture(name, list, Number(options.share))
  console.log(`written: ${writeReport(`price-${name}.json`, { environment: stamp, ...list })}`)
  console.log(`written: ${writeReport(`price-${name}.svg`, svg)}`)
  if (!options.pictures) continue
  const folder = join(root, 'docs', 'pictures')
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, `price-${name}.svg`), svg)
}

// Hit rates of whole models: each writes a text under `tiered-moe run --record-trace`, and `tiered-moe simulate` replays the trace under
// every policy with room for 10 to 90 % of the experts.
//   node bench/model-hit-rates.mjs            the embedded model as a tiered checkpoint
//   node bench/model-hit-rates.mjs --full     the OLMoE shape of 7 billion parameters too, with flat and with skewed routers
//   … --pictures                              writes the picture of the README, docs/pictures/hit-rates-models.svg
// The weights of the 7B files are random, so their text says nothing: what their routers ask for is what a router of random rows asks for.
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { environment, mebibytes, printEnvironment, printTable, root, writeReport } from './harness.mjs'
import { bigModel, checkpointOf, embeddedModel, oneTierCheckpoint, skewedBigModel } from './models.mjs'
import { hitRatePlot } from './plot.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    pictures: { type: 'boolean', default: false },
    tokens: { type: 'string', default: '512' }
  }
})
const shares = [0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9]
const main = join(root, 'dist/esm/cli/main.js')
const text = readFileSync(join(root, 'models', 'tiny-shakespeare-scene.txt'), 'utf8')

const command = (args, input) =>
  execFileSync(process.execPath, [main, ...args], { encoding: 'utf8', input, maxBuffer: 2 ** 28, stdio: 'pipe' })

/** What `simulate` says of a run that continues each prompt by `tokens` tokens, with memory for all experts. */
function measure({ title, model, memory, prompts, tokens }) {
  const folder = mkdtempSync(join(tmpdir(), 'tiered-moe-trace-'))
  try {
    const path = join(folder, 'run.trace')
    const sampling = ['--temperature', '0.8', '--seed', '1', '--ignore-eos', '--max-tokens', String(tokens)]
    const record = [
      'run',
      model,
      '--interactive',
      '--json',
      '--memory',
      memory,
      '--prefetch',
      'off',
      '--record-trace',
      path,
      ...sampling
    ]
    command(record, prompts.join('\n'))
    const bytes = statSync(path).size
    const simulate = ['simulate', path, '--json', ...shares.flatMap((share) => ['--residency', String(share)])]
    return { title, bytes, ...JSON.parse(command(simulate)) }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

const stamp = environment()
printEnvironment(stamp)
/** Lines of the text for the embedded model, whose context is short; the 7B files continue its beginning. */
const lines = text.split('\n').filter((line) => line.length > 20)
const models = [
  {
    title: 'embedded model, 8 texts',
    model: await checkpointOf('hit-rates-embedded', embeddedModel),
    memory: '64MiB',
    prompts: lines.slice(0, 8),
    tokens: 200
  }
]
if (options.full) {
  const prompt = lines.slice(0, 8).join(' ')
  const files = { 'OLMoE shape, 7B': await bigModel(), 'OLMoE shape, 7B, skewed routers': await skewedBigModel() }
  for (const [title, file] of Object.entries(files)) {
    if (!file) continue
    const model = await oneTierCheckpoint(file)
    models.push({ title, model, memory: '6GiB', prompts: [prompt], tokens: Number(options.tokens) })
  }
}
const measured = models.map(measure)

const percent = (share) => (100 * share).toFixed(1)
const points = measured.map(({ comparisons }) =>
  comparisons.map(({ policies, optimum }, i) => ({
    residency: shares[i],
    hitRate: Object.fromEntries([...policies, optimum].map(({ policy, hitRate }) => [policy, hitRate]))
  }))
)
printTable(
  ['model', 'steps', 'trace, MiB', 'experts in memory %', 'adaptive', 'LRU', 'LFU', 'ARC', 'optimum'],
  measured.flatMap(({ title, steps, bytes }, m) =>
    points[m].map(({ residency, hitRate }) => [
      title,
      steps,
      mebibytes(bytes),
      percent(residency),
      ...['adaptive', 'lru', 'lfu', 'arc', 'optimum'].map((policy) => percent(hitRate[policy]))
    ])
  )
)
const svg = hitRatePlot(
  'Models: hits (%) by experts in memory (%)',
  measured.map(({ title }, m) => ({ title, points: points[m] }))
)
const report = measured.map(({ title, steps }, m) => ({ title, steps, points: points[m] }))
console.log(`written: ${writeReport('model-hit-rates.json', { environment: stamp, report })}`)
console.log(`written: ${writeReport('model-hit-rates.svg', svg)}`)
if (options.pictures) {
  const folder = join(root, 'docs', 'pictures')
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'hit-rates-models.svg'), svg)
}

// What capturing routes costs a decode: generations with and without `captureRouting` alternate in one process, in pairs.
//   node bench/capture.mjs                 the embedded model, a few pairs; nothing is judged
//   node bench/capture.mjs --full          many pairs, and the OLMoE shape of 7 billion parameters; exit 1 where capturing surely costs over 1 %
// A pair's two generations are of the same tokens, begin in turns, and are timed from their first token to their last. `captured`: the
// routes are looked at when the text is whole, as generate() does; `looked at`: those of each token when it comes; `nothing`: without
// beside without, which shows the measurement's own error.
import { parseArgs } from 'node:util'
import { createEngine } from '../dist/esm/index.js'
import { environment, percentile, printEnvironment, printTable, show, summarise, writeReport } from './harness.mjs'
import { bigModel, embeddedModel } from './models.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    threads: { type: 'string', default: '2' },
    seconds: { type: 'string' }
  }
})
const allowed = 1.01
const seconds = Number(options.seconds ?? (options.full ? 90 : 4))
const kinds = ['captured', 'looked at', 'nothing']

/** Milliseconds from the first token to the last, and the choices captured. */
async function decode(engine, model, maxTokens, kind) {
  const captureRouting = kind !== undefined && kind !== 'nothing'
  const request = { model, promptTokens: [11, 12, 13], maxTokens, temperature: 0, ignoreEos: true, captureRouting }
  const generator = engine.createGenerator(request)
  const items = [(await generator.next()).value]
  let choices = 0
  const began = performance.now()
  for await (const item of generator) {
    items.push(item)
    if (kind === 'looked at') choices += item.routing?.ids.length ?? 0
  }
  const ms = performance.now() - began
  choices = items.reduce((sum, { routing }) => sum + (routing?.ids.length ?? 0), 0)
  return { ms, choices }
}

/** For `seconds`, each kind in turn beside a generation without. */
async function measure(name, path, tokens) {
  const engine = await createEngine({ threads: Number(options.threads), maxBatchTokens: 64 })
  try {
    const { id, descriptor } = await engine.loadModel({ model: path })
    const expected = (2 + tokens) * descriptor.layers * descriptor.expertsUsed
    const run = async (kind) => {
      const { ms, choices } = await decode(engine, id, tokens, kind)
      const wanted = kind === undefined || kind === 'nothing' ? 0 : expected
      if (choices !== wanted) throw new Error(`${choices} choices were captured instead of ${wanted}`)
      return ms
    }
    for (const kind of [...kinds, undefined]) await run(kind)
    const ratios = Object.fromEntries(kinds.map((kind) => [kind, []]))
    const plain = []
    const until = performance.now() + 1000 * seconds
    for (let pair = 0; pair < 4 * kinds.length || performance.now() < until; pair++) {
      const kind = kinds[pair % kinds.length]
      const first = Math.floor(pair / kinds.length) % 2 === 0
      const one = await run(first ? kind : undefined)
      const two = await run(first ? undefined : kind)
      const [subject, control] = first ? [one, two] : [two, one]
      ratios[kind].push(subject / control)
      plain.push(control / (tokens - 1))
    }
    return { name, tokens, msPerToken: summarise(plain), ratios }
  } finally {
    await engine.dispose()
  }
}

const stamp = environment()
printEnvironment(stamp)
const big = options.full ? await bigModel() : undefined
const measured = [await measure('tiny-shakespeare', embeddedModel, 200)]
if (big) measured.push(await measure('olmoe-1b-7b, Q4_0', big, 24))

/** The median of ratios and how far it may be off (95 %), by the rule of a box plot's notches (McGill, Tukey, Larsen 1978). */
function estimate(ratios) {
  const range = percentile(ratios, 0.75) - percentile(ratios, 0.25)
  return { median: summarise(ratios).median, error: (1.57 * range) / Math.sqrt(ratios.length) }
}
const percent = (share) => (100 * share).toFixed(2)
const showEstimate = ({ median, error }) => `${percent(median - 1)} ± ${percent(error)} %`
printTable(
  ['model', 'tokens', 'pairs of each', 'ms a token', ...kinds],
  measured.map(({ name, tokens, msPerToken, ratios }) => [
    name,
    tokens,
    ratios.nothing.length,
    show(msPerToken.median),
    ...kinds.map((kind) => showEstimate(estimate(ratios[kind])))
  ])
)
console.log(`written: ${writeReport('capture.json', { environment: stamp, measured })}`)
if (!options.full) console.log('judged with --full: capturing costs at most 1 %')
else {
  for (const { name, ratios } of measured) {
    const { median, error } = estimate(ratios.captured)
    const kept = median - error <= allowed
    console.log(`${kept ? 'kept' : 'MISSED'}: ${name}, capturing costs at most 1 %`)
    if (!kept) process.exitCode = 1
  }
}

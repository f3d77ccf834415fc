// Integer routes beside plain float32 top-k, decision by decision, for every form of the route: on the states that the trained model's routers
// see, and on the same with one channel × 1,000.
//   node bench/route-agreement.mjs            some thousand decisions of each form
//   node bench/route-agreement.mjs --full     1,000,000 of each (--decisions N for another number)
// float32: products summed by fma in float32, then bias, sigmoid and sums in float32. A decision agrees where the same experts are chosen. Where
// not, float64 says how near the tie was: its gap must be within what rounding states, weights or float32 sums may do. Biases are random: the
// model has none. A control, of states and routers of 8 bits, must be noticed. Fails below 99.95 % on the model's own states (unless decisions are too few to say), or where a decision that differs is no near-tie.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { createTokenizer } from '../dist/esm/model/tokenizer.js'
import { environment, printEnvironment, printTable, root, seededRandom, show, writeReport } from './harness.mjs'
import { embeddedModel } from './models.mjs'
import { decide, ranksOf } from './route-float.mjs'
import { openStates, routerStates } from './router-states.mjs'

const { values: options } = parseArgs({
  options: { full: { type: 'boolean', default: false }, decisions: { type: 'string' } }
})
const decisions = Number(options.decisions ?? (options.full ? 1_000_000 : 4_000))
const goal = 0.9995
const sequenceLength = 256

const random = seededRandom(6)
const normal = () => (random() + random() + random() + random() - 2) * Math.sqrt(3)
const experts = 16
const bias = Float32Array.from({ length: experts }, normal)
const selectionBias = Float32Array.from({ length: experts }, () => normal() * 0.1)
const k = 4
const forms = {
  'softmax → top-k': { form: 'softmax_topk', k },
  'top-k → softmax, router bias': { form: 'topk_softmax', k, bias },
  'softmax, groups by their best': { form: 'softmax_topk', k, groups: { count: 4, used: 2, score: 'max' } },
  sigmoid: { form: 'sigmoid', k },
  'sigmoid + bias': { form: 'sigmoid', k, selectionBias },
  'sigmoid + bias, groups by two': {
    form: 'sigmoid',
    k,
    selectionBias,
    groups: { count: 4, used: 2, score: 'top2' }
  },
  'control: 8 bits': { form: 'softmax_topk', k, coarse: true }
}

/** Rows of numbers to 8 bits of the largest of each. */
function toEightBits(values, width) {
  const out = new Float32Array(values.length)
  for (let row = 0; row < values.length; row += width) {
    const own = values.subarray(row, row + width)
    const unit = 2 ** (Math.floor(Math.log2(own.reduce((most, x) => Math.max(most, Math.abs(x)), 0))) - 6)
    out.set(
      own.map((x) => Math.round(x / unit) * unit),
      row
    )
  }
  return out
}

/** The scene that comes with the model, then what is written in this repository. */
function* texts() {
  yield readFileSync(join(root, 'models', 'tiny-shakespeare-scene.txt'), 'utf8')
  for (const folder of ['docs', 'lib', 'csrc', 'test', 'bench'])
    for (const entry of readdirSync(join(root, folder), { recursive: true, withFileTypes: true }))
      if (entry.isFile() && /\.(md|ts|mjs|cpp|h)$/.test(entry.name))
        yield readFileSync(join(entry.parentPath ?? entry.path, entry.name), 'utf8')
}

/** Sequences of tokens, all different. */
function* sequences(tokenizer) {
  for (const text of texts()) {
    const ids = Int32Array.from(tokenizer.encode(text))
    for (let at = 0; at < ids.length; at += sequenceLength) yield ids.subarray(at, at + sequenceLength)
  }
}

/** What float64 finds: the decision, and how wide a gap rounding may close. */
function inFloat64(state, router, shape) {
  const width = state.length
  const [most, sum] = state.reduce(([m, s], x) => [Math.max(m, Math.abs(x)), s + Math.abs(x)], [0, 0])
  let [mostWeight, sumWeight] = [0, 0]
  const logits = Array.from({ length: experts }, (_, e) => {
    let [product, magnitude] = [0, 0]
    for (let c = 0; c < width; c++) {
      const w = router[e * width + c]
      product += state[c] * w
      magnitude += Math.abs(w)
      mostWeight = Math.max(mostWeight, Math.abs(w))
    }
    sumWeight = Math.max(sumWeight, magnitude)
    return product
  })
  // numbers to 24 bits of the largest, both sides of a comparison; float32 sums round by less; then what comes after the sum, in float32
  const products = 2 ** -22 * (most * sumWeight + mostWeight * sum)
  const slope = shape.selectionBias ? 0.25 : 1
  const after = 2 ** -22 * (shape.selectionBias ? 2 : Math.max(...logits.map(Math.abs)))
  const exact = (x) => x
  return { ...decide(ranksOf(logits, shape, exact), shape, exact), nearTie: slope * products + after }
}

const same = (a, b) => a.every((id, i) => id === b[i])

/** Compares the decisions of every form on states [tokens][width] of one layer, and counts into `rows`. */
function compare(kernels, states, router, layer, rows) {
  const width = router.length / experts
  const tokens = states.length / width
  const positions = Uint32Array.from({ length: tokens }, (_, i) => i)
  const data = new Uint8Array(router.buffer, router.byteOffset, router.byteLength)
  const weight = kernels.pack({ type: 'F32', rows: experts, columns: width, data })
  const products = kernels.sync.logits({ states, weight })
  const packed = kernels.packRouter(router)
  for (const [name, shape] of Object.entries(forms)) {
    const row = rows[name]
    const { coarse, ...form } = shape
    const { ids } = kernels.sync.route({
      states: coarse ? toEightBits(states, width) : states,
      ...(coarse ? kernels.packRouter(toEightBits(router, router.length)) : packed),
      experts,
      positions,
      layer,
      ...form,
      ...(shape.bias && kernels.packBias(shape.bias)),
      ...(shape.selectionBias && { selectionBias: kernels.packSelectionBias(shape.selectionBias) })
    })
    for (let token = 0; token < tokens; token++) {
      const own = Array.from(ids.subarray(token * k, (token + 1) * k)).sort((a, b) => a - b)
      const logits = Array.from(products.subarray(token * experts, (token + 1) * experts))
      const float = decide(ranksOf(logits, shape, Math.fround), shape, Math.fround)
      row.decisions++
      if (same(own, float.ids)) {
        row.agree++
        continue
      }
      const exact = inFloat64(states.subarray(token * width, (token + 1) * width), router, shape)
      row.widest = Math.max(row.widest, exact.gap)
      if (exact.gap > exact.nearTie) row.clear++
      if (same(exact.ids, own)) row.withOurs++
      else if (same(exact.ids, float.ids)) row.withFloat++
    }
  }
}

const stamp = environment()
printEnvironment(stamp)
const opened = await openStates(embeddedModel)
const tokenizer = createTokenizer(opened.metadata)
const emptyRows = () =>
  Object.fromEntries(
    Object.keys(forms).map((name) => [name, { decisions: 0, agree: 0, clear: 0, withOurs: 0, withFloat: 0, widest: 0 }])
  )
const kinds = { "the model's states": emptyRows(), 'one channel × 1,000': emptyRows() }
const started = performance.now()
let done = 0
for (const tokens of sequences(tokenizer)) {
  if (done >= decisions) break
  const seen = await routerStates(opened, tokens)
  for (const [layer, states] of seen.entries()) {
    const router = opened.routers[layer]
    const width = router.length / experts
    compare(opened.kernels, states, router, layer, kinds["the model's states"])
    const channel = Math.floor(random() * width)
    const large = states.map((x, i) => (i % width === channel ? Math.fround(x * 1000) : x))
    compare(opened.kernels, large, router, layer, kinds['one channel × 1,000'])
  }
  done += tokens.length * seen.length
}
opened.dispose()

const failures = []
const table = []
for (const [kind, rows] of Object.entries(kinds)) {
  for (const [name, row] of Object.entries(rows)) {
    const share = row.agree / row.decisions
    const differ = row.decisions - row.agree
    const { coarse } = forms[name]
    if (coarse && differ === 0) failures.push(`${kind}: 8 bits were not noticed`)
    table.push([
      kind,
      name,
      row.decisions,
      `${(share * 100).toFixed(4)} %`,
      differ,
      row.withOurs,
      row.withFloat,
      show(row.widest),
      row.clear
    ])
    if (row.clear > 0 && !coarse) failures.push(`${kind}, ${name}: ${row.clear} decisions that are no near-ties differ`)
    // of fewer decisions than this, two that differ are more than the goal allows
    if (!coarse && share < goal && row.decisions > 10_000 && kind !== 'one channel × 1,000')
      failures.push(`${kind}, ${name}: ${(share * 100).toFixed(4)} % agree`)
  }
}
printTable(
  ['states', 'form', 'decisions', 'agree', 'differ', 'float64: ours', 'float64: float32', 'widest gap', 'no near-tie'],
  table
)
console.log(`${done} (token, layer) decisions of each in ${show((performance.now() - started) / 1000)} s`)
if (done < decisions) failures.push(`the texts have only ${done} of ${decisions} decisions`)
console.log(`report: ${writeReport('route-agreement.json', { ...stamp, decisions: done, kinds, failures })}`)
for (const failure of failures) console.log(`FAILED: ${failure}`)
process.exitCode = failures.length > 0 ? 1 : 0

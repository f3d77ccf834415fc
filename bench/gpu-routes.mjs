// Routes of the GPU beside the CPU's, decision by decision: from the same state bits the ids must be equal, the weights near.
//   npm run bench:routes                20,000 (token, layer) decisions over every form and kind of mask, then mutants that must be noticed
//   npm run bench:routes -- --full      1,000,000 decisions (--decisions N for another number; --no-mutants leaves these out)
// Three batches in eight are built with exact ties: experts with equal rows, small integers that tie by themselves, states of zeros. Two
// have scores so near that one unit of 24 bits decides, in the router or in how states are rounded. A decision is a token's route in one layer; every batch has another layer, seed and router.
import { parseArgs } from 'node:util'
import { GpuCalls } from '../dist/esm/backends/webgpu/backend.js'
import { GpuDevice } from '../dist/esm/backends/webgpu/device.js'
import { onNode } from '../dist/esm/backends/webgpu/node-provider.js'
import { openBackend } from '../dist/esm/kernels.js'
import { environment, printEnvironment, printTable, seededRandom, show, writeReport } from './harness.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    decisions: { type: 'string' },
    'no-mutants': { type: 'boolean', default: false }
  }
})
const decisions = Number(options.decisions ?? (options.full ? 1_000_000 : 20_000))

const flatShapes = [
  { experts: 64, k: 8, width: 64 },
  { experts: 128, k: 8, width: 48 },
  { experts: 8, k: 2, width: 160 },
  { experts: 60, k: 4, width: 33 }
]
const hserShapes = [
  { tiers: [4, 4, 4, 4].map((groups) => Array(groups).fill(8)), k: [2, 2, 2], width: 64 },
  { tiers: [[20, 30], [16, 9, 5], [40]], k: [2, 1, 4], width: 48 }
]
const masks = ['none', 'one', 'by token']
const cells = masks.flatMap((mask) => [
  ...['softmax_topk', 'topk_softmax'].flatMap((form) =>
    [false, true].map((normalise) => ({ form, normalise, mask, shapes: flatShapes }))
  ),
  ...[false, true].map((normalise) => ({ form: 'hser', normalise, mask, shapes: hserShapes })),
  { form: 'topk_softmax', normalise: false, mask, shapes: flatShapes, bias: true },
  { form: 'sigmoid', normalise: true, mask, shapes: flatShapes, bias: true, selectionBias: true, score: 'top2' },
  { form: 'softmax_topk', normalise: true, mask, shapes: flatShapes, score: 'max' }
])
const inputs = ['plain', 'equal rows', 'heavy', 'small integers', 'between units', 'zeros', 'plain', 'one unit apart']
/** Tokens of a batch where `count` are decided in all: every cell gets every input. */
const batchTokens = (count) => Math.min(4096, Math.ceil(count / (cells.length * inputs.length)))
const tieInputs = ['equal rows', 'small integers', 'zeros']

const offsetsOf = (sizes) => Uint32Array.from([0, ...sizes].map((_, i) => sizes.slice(0, i).reduce((a, b) => a + b, 0)))
const normal = (random) => (random() + random() + random() + random() - 2) * Math.sqrt(3)

/** Columns 1 and 2, 3 and 4, … change places. */
const besideOf = (c, width) => (c === 0 ? 0 : c % 2 === 0 ? c - 1 : c + 1 < width ? c + 1 : c)

/**
 * Router weights of `rows` rows. `equal rows` repeats them in pairs and fours; `one unit apart` moves one number of a copy by one unit;
 * `between units` has every row a second time with its columns changed two by two.
 */
function routerOf(backend, random, rows, width, input) {
  const number = input === 'small integers' ? () => Math.floor(random() * 5) - 2 : () => normal(random) * 0.3
  const weights = Float32Array.from({ length: rows * width }, number)
  const copies = input === 'equal rows' || input === 'one unit apart'
  for (let row = 0; copies && row < rows; row++) {
    const from = row % 8 < 4 ? row - (row % 4) : row - (row % 2)
    weights.copyWithin(row * width, from * width, (from + 1) * width)
  }
  for (let row = 1; input === 'between units' && row < rows; row += 2)
    for (let c = 0; c < width; c++) weights[row * width + c] = weights[(row - 1) * width + besideOf(c, width)]
  const packed = backend.packRouter(weights)
  if (input === 'one unit apart')
    for (let row = 1; row < rows; row++) packed.router[row * width + Math.floor(random() * width)] ^= 1
  return packed
}

/**
 * States whose units are 2^-22: column 0 is 1, the others are small multiples of a unit, every second one 0.75 units more than the one
 * before it. Rounded to units they differ by one; cut they would be equal.
 */
function betweenUnits(random, tokens, width) {
  const out = new Float32Array(tokens * width)
  for (let i = 0; i < out.length; i++) {
    const c = i % width
    if (c === 0) out[i] = 1
    else out[i] = c % 2 === 1 ? Math.floor(random() * 2 ** 18) * 2 ** -22 : out[i - 1] + 0.75 * 2 ** -22
  }
  return out
}

/** The batch of a number: its cell, and a request of tiered-moe/kernels. */
function batch(backend, number, tokens) {
  const random = seededRandom(number + 1)
  const cell = cells[number % cells.length]
  const turn = Math.floor(number / cells.length)
  const input = inputs[turn % inputs.length]
  const shape = cell.shapes[(number + turn + Math.floor(turn / inputs.length)) % cell.shapes.length]
  const { width } = shape
  const groups = shape.tiers?.flat()
  const experts = shape.experts ?? groups.reduce((a, b) => a + b, 0)
  const router = (rows) => routerOf(backend, random, rows, width, input)
  const word = () => Math.floor(random() * 2 ** 32)
  const state = {
    zeros: () => (random() < 0.5 ? 0 : -0),
    'small integers': () => Math.floor(random() * 5) - 2,
    heavy: () => normal(random) * 2 ** (6 * normal(random))
  }[input]
  const request = {
    states:
      input === 'between units'
        ? betweenUnits(random, tokens, width)
        : Float32Array.from({ length: tokens * width }, state ?? (() => normal(random))),
    ...router(experts),
    experts,
    k: shape.tiers ? shape.k.reduce((a, b) => a * b, 1) : shape.k,
    form: cell.form,
    normalise: cell.normalise,
    layer: number,
    seed: Uint32Array.from({ length: 4 }, word),
    positions: Uint32Array.from({ length: tokens }, word)
  }
  let rows = experts
  // few different biases, so that equal rows still tie
  const biases = () => Float32Array.from({ length: experts }, () => Math.floor(random() * 3) / 4)
  if (cell.bias) Object.assign(request, backend.packBias(biases()))
  if (cell.selectionBias) request.selectionBias = backend.packSelectionBias(biases())
  if (cell.score) request.groups = { count: 4, used: 2, score: cell.score }
  if (groups) {
    const [upper, top] = [router(groups.length), router(shape.tiers.length)]
    rows += groups.length + shape.tiers.length
    request.hser = {
      tierGroups: offsetsOf(shape.tiers.map((own) => own.length)),
      groupExperts: offsetsOf(groups),
      tierRouter: top.router,
      tierRouterExponent: top.routerExponent,
      groupRouter: upper.router,
      groupRouterExponent: upper.routerExponent,
      kTier: shape.k[0],
      kGroup: shape.k[1],
      kExpert: shape.k[2]
    }
  }
  // masks that disable a tier (of three), single experts, or both, and always leave enough at every level
  const first = shape.tiers
    ? shape.tiers
        .slice(0, -1)
        .flat()
        .reduce((a, b) => a + b, 0)
    : Math.ceil(experts / 2)
  const kinds = [(e) => e < first, (e) => e % 5 !== 3, (e) => e < first && (e % 7 !== 2 || experts < 16)]
  if (cell.mask !== 'none')
    request.enabled = Uint8Array.from(kinds.flatMap((on) => Array.from({ length: experts }, (_, e) => (on(e) ? 1 : 0))))
  if (cell.mask === 'one')
    request.enabled = request.enabled.subarray((number % 3) * experts, ((number % 3) + 1) * experts)
  if (cell.mask === 'by token')
    request.maskOf = Uint32Array.from({ length: tokens }, () =>
      random() < 0.25 ? 0xffffffff : Math.floor(random() * 3)
    )
  // ties are counted in exact scores, which biases part
  return { request, rows, tieBuilt: tieInputs.includes(input) && !cell.bias }
}

/** Decisions in which two rows that could be chosen have one score. */
function tied({ request, rows }, scores) {
  const { experts, enabled, maskOf } = request
  let count = 0
  for (let token = 0; token < request.positions.length; token++) {
    const mask = maskOf ? maskOf[token] : 0
    const on = (row) => row >= experts || !enabled || mask === 0xffffffff || enabled[mask * experts + row] !== 0
    const own = scores
      .subarray(token * rows, (token + 1) * rows)
      .filter((score, row) => score !== -(2n ** 63n) && on(row))
    own.sort()
    if (own.some((score, i) => i > 0 && score === own[i - 1])) count++
  }
  return count
}

/** Runs decisions through both backends. `stopAtFirst`: until one id differs. */
async function compare(cpu, gpu, count, { stopAtFirst = false, countTies = false } = {}) {
  const rows = cells.map((cell) => ({ ...cell, decisions: 0, tieBuilt: 0, tied: 0, different: 0, worst: 0, limit: 0 }))
  const most = batchTokens(count)
  let done = 0
  for (let number = 0; done < count; number++) {
    const row = rows[number % rows.length]
    const tokens = Math.min(most, count - done)
    const made = batch(cpu, number, tokens)
    const { request } = made
    const scores = countTies && made.tieBuilt ? new BigInt64Array(tokens * made.rows) : undefined
    const expected = cpu.sync.route(scores ? { ...request, scores } : request)
    const got = await gpu.route(request)
    for (let token = 0; token < tokens; token++) {
      const [from, to] = [token * request.k, (token + 1) * request.k]
      let same = true
      for (let i = from; i < to; i++) {
        if (got.ids[i] !== expected.ids[i]) same = false
        else row.worst = Math.max(row.worst, Math.abs(got.weights[i] - expected.weights[i]))
      }
      if (!same) row.different++
    }
    // test/kernels/tolerance.ts: routeWeights, at the scale of a probability
    row.limit = Math.max(row.limit, (24 + request.experts) * 2 ** -24)
    row.decisions += tokens
    done += tokens
    if (made.tieBuilt) row.tieBuilt += tokens
    if (scores) row.tied += tied(made, scores)
    if (stopAtFirst && row.different > 0) break
  }
  return rows
}

/** A text of a shader, and what a mutant has in its place. */
const mutants = {
  'the middle limb is dropped': ['u64_shl(i64_of(middle[r]), 12u)', 'vec2<u32>()'],
  'the low limb is dropped': ['vec2<u32>(low[r], 0u)', 'vec2<u32>()'],
  'a carry is dropped': ['a.y + b.y + select(0u, 1u, low < a.x)', 'a.y + b.y'],
  'high words are compared without their sign': ['bitcast<i32>(a.y) < bitcast<i32>(b.y)', 'a.y < b.y'],
  'states are cut, not rounded': ['mantissa + (1u << (shift - 1u)) - 1u + ((mantissa >> shift) & 1u)', 'mantissa'],
  'ties go to the lower index': ['hash < own.hash || (hash == own.hash && tile + i < row)', 'tile + i < row'],
  'the hash forgets the position': ['h = mix32(h ^ position) + 0x9e3779b9u;', 'h = mix32(h) + 0x9e3779b9u;'],
  'the router has no bias': ['return biased(score, bias[row],', 'return biased(score, 0 * bias[row],'],
  "a group's second best does not count": ['best = i64_add(best, second);', 'best = i64_add(best, vec2<u32>());'],
  'two more groups stay': ['before < params.choice_used', 'before < params.choice_used + 2u'],
  'the power of two in a sigmoid is one step long': ['for (var k = 12u; k > 0u; k--)', 'for (var k = 1u; k > 0u; k--)'],
  'every token has the first mask': ['let word = mask * params.mask_stride', 'let word = 0u * params.mask_stride']
}

/** A GPU whose shaders `change` may alter. */
async function openGpu(change = (text) => text) {
  const shaders = (name) => {
    const text = onNode.shaders(name)
    return text === undefined ? undefined : change(text)
  }
  const device = await GpuDevice.open({ ...onNode, shaders, timeoutMs: 600_000 })
  return { ...new GpuCalls(device).table(), device: device.name, dispose: () => device.dispose() }
}

const stamp = environment()
printEnvironment(stamp)
const cpu = openBackend('cpu', { threads: 1 })
const gpu = await openGpu()
console.log(`device: ${gpu.device}`)
const started = performance.now()
const rows = await compare(cpu, gpu, decisions, { countTies: true })
gpu.dispose()
const sum = (field) => rows.reduce((total, row) => total + row[field], 0)
const worst = Math.max(...rows.map((row) => row.worst))
printTable(
  [
    'form',
    'beside',
    'normalised',
    'mask',
    'decisions',
    'built with ties',
    'with exact ties',
    'other ids',
    'greatest weight difference',
    'allowed'
  ],
  [
    ...rows.map((row) => [
      row.form,
      [row.bias && 'bias', row.selectionBias && 'selection bias', row.score && `groups by ${row.score}`]
        .filter(Boolean)
        .join(', '),
      row.normalise ? 'yes' : 'no',
      row.mask,
      row.decisions,
      row.tieBuilt,
      row.tied,
      row.different,
      show(row.worst),
      show(row.limit)
    ]),
    ['all', '', '', '', sum('decisions'), sum('tieBuilt'), sum('tied'), sum('different'), show(worst), '']
  ]
)
const share = sum('tied') / sum('decisions')
console.log(`${show(share * 100)} % of the decisions have exact ties; ${show((performance.now() - started) / 1000)} s`)

const failures = []
if (sum('different') > 0) failures.push(`${sum('different')} decisions have other ids`)
if (share < 0.1) failures.push('fewer than 10 % of the decisions have exact ties')
for (const row of rows) {
  if (row.decisions === 0) failures.push(`no decision of ${row.form}, mask ${row.mask}`)
  if (!(row.worst <= row.limit)) failures.push(`${row.form}, mask ${row.mask}: a weight is off by ${row.worst}`)
}

const noticed = {}
for (const [name, [from, to]] of options['no-mutants'] ? [] : Object.entries(mutants)) {
  let applied = false
  const mutant = await openGpu((text) => {
    if (!text.includes(from)) return text
    applied = true
    return text.replaceAll(from, to)
  })
  const found = await compare(cpu, mutant, 20_000, { stopAtFirst: true })
  mutant.dispose()
  const tried = found.reduce((total, row) => total + row.decisions, 0)
  noticed[name] = found.some((row) => row.different > 0) ? tried : undefined
  console.log(`mutant: ${name}: ${noticed[name] ? `noticed within ${tried} decisions` : 'NOT noticed'}`)
  if (!applied || !noticed[name])
    failures.push(`the mutant "${name}" ${applied ? 'was not noticed' : 'changes no shader'}`)
}
cpu.dispose()
console.log(
  `report: ${writeReport('gpu-routes.json', { ...stamp, device: gpu.device, rows: rows.map(({ shapes: _, ...row }) => row), noticed, failures })}`
)
for (const failure of failures) console.log(`FAILED: ${failure}`)
process.exitCode = failures.length > 0 ? 1 : 0

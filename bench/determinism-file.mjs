// Runs cells of the determinism check over one file and compares them with the first.
import { availableParallelism } from 'node:os'
import { createTokenizer } from '../dist/esm/model/tokenizer.js'
import { runCell, tally, tierMask } from './determinism-run.mjs'
import { placeSwapped } from './determinism-swap.mjs'
import { checkpointOf } from './models.mjs'
import { openModel, prefixCacheBytes } from './runtime.mjs'

export const columns = [
  'file',
  'isa',
  'threads',
  'chunk',
  'batch',
  'experts',
  'missing',
  'swapped',
  "mates' TierSet",
  'routes',
  'reused',
  'kernels',
  'expertMatmul rows of the steps',
  'sha-256',
  'logits'
]

/** Of NativeModel.whereabouts. */
const [residencyBits, resident, pinnedBit] = [3, 2, 4]

/** Checkpoints that this process has made, by the file and how its experts are spread. */
const checkpoints = new Map()

function checkpointFor(path, tiers) {
  const key = `${path} ${tiers === null ? 'own tiers' : 'two tiers'}`
  const made = checkpoints.get(key) ?? checkpointOf(`determinism ${checkpoints.size}`, path, tiers)
  checkpoints.set(key, made)
  return made
}

/** Opens the model with its experts in a place (cells.mjs), and changed while it serves where `swap` asks for that. */
async function openPlaced({ path, tiers, swapped }, { place = 'memory', swap = 'none', isa, threads }) {
  const [from, share, hot] = place.split(' ')
  const percent = from === 'memory' ? undefined : Number.parseInt(share, 10)
  const file = swap === 'none' ? path : swapped.from
  const opened = await openModel(from === 'checkpoint' ? await checkpointFor(file, tiers) : file, {
    isa,
    threads,
    percent,
    hot: hot !== undefined,
    maxBatchTokens: 512
  })
  if (swap !== 'none') await placeSwapped(opened, swapped.blobs, swap)
  return opened
}

/** What the store did while a cell ran, and whether that is what its place asks for; `swapped` experts may be read anew. */
function describeUse(place, before, { model, description: { sizes }, budget: { count, slots } = {} }, swapped) {
  const after = model.expertStats()
  if (!after) return { text: '-', problems: place === 'memory' ? [] : ['experts are in memory'] }
  const [uses, misses] = ['uses', 'misses'].map((key) => after[key] - before[key])
  const problems = []
  if (slots < count && misses === 0) problems.push(`${slots} of ${count} experts fit, and none was missing`)
  if (slots === count && misses > swapped) problems.push(`all experts fit, and ${misses} were missing`)
  if (after.residentBytes > after.budgetBytes) problems.push('more experts in memory than the budget allows')
  const pinned = model.whereabouts().bits.filter((bits) => bits & pinnedBit)
  const wanted = place.endsWith('hot') ? sizes.expertLayers * Math.floor(sizes.experts / 4) : 0
  if (pinned.length !== wanted) problems.push(`${pinned.length} experts are pinned, not ${wanted}`)
  const absent = pinned.filter((bits) => (bits & residencyBits) !== resident).length
  if (absent > 0) problems.push(`${absent} pinned experts are not in memory`)
  return { text: `${misses} of ${uses}`, problems }
}

/** Whether two captures are the same bits. */
const sameRoutes = (a, b) =>
  ['ids', 'weights'].every((key) => Buffer.from(a[key].buffer).equals(Buffer.from(b[key].buffer)))

/** Runs `work` for each, so many at a time. */
async function inLanes(lanes, list, work) {
  const left = [...list]
  const lane = async () => {
    while (left.length) await work(left.shift())
  }
  await Promise.all(Array.from({ length: lanes }, lane))
}

/**
 * Runs all cells over a file `{ name, path, tiers?, swapped? }`; those of one instruction set, thread count, place and swap share the loaded
 * model. Sequence 0 may use the first `firstTiers` tiers of a hierarchical model. `swapped`: `{ from, blobs, epoch }`, the model whose experts
 * change, the experts, and the epoch that sequence 0 is of, with which it has to be equal to `path`. Returns
 * `{ hash, failures, rows, milliseconds }`, `rows` by `columns`, `milliseconds` of each cell.
 */
export async function checkFile(file, cells, { firstTiers, ...shape }) {
  const groups = new Map()
  for (const cell of cells) {
    const key = `${cell.isa} ${cell.threads} ${cell.place} ${cell.swap}`
    groups.set(key, [...(groups.get(key) ?? []), cell])
  }
  const rows = new Map()
  const milliseconds = new Map()
  let failures = 0
  let reference

  const runOne = async (opened, tokenizer, cell) => {
    const { isa, threads, chunk, batch, place = 'memory', swap = 'none', tierSet = 'all' } = cell
    const { routes = 'routed', prefix = 'computed' } = cell
    const kernels = opened.backend.kernels()
    const others = Object.entries(kernels).filter(([, resolved]) => resolved !== isa)
    const before = opened.model.expertStats()
    const replay = routes === 'replayed' ? reference?.routes : undefined
    const capture = !reference || routes !== 'routed'
    const cached = prefix === 'cached'
    // What this cell takes over is what it has computed.
    opened.model.evictPrefixes(prefixCacheBytes)
    const epoch = file.swapped?.epoch ?? 0
    const ran = await runCell(opened, tokenizer, {
      ...shape,
      chunk: chunk === 'all' ? shape.prompt : chunk,
      batch,
      tierSet,
      enabled: firstTiers && tierMask(opened, firstTiers),
      capture,
      replay,
      cached,
      epoch,
      // Beside sequence 0 run requests that began before the swap, and others after it.
      mateEpochs: [1 - epoch, epoch]
    })
    const read = swap === 'none' ? 0 : file.swapped.blobs.length
    const use = describeUse(place, before, opened, read)
    const problems = [...ran.problems, ...use.problems]
    if (opened.backend.isa !== isa) problems.push(`backend runs ${opened.backend.isa}`)
    for (const [kernel, resolved] of others) problems.push(`${kernel} is ${resolved}`)
    reference ??= ran
    const equal =
      ran.hash === reference.hash &&
      ran.tokens.join() === reference.tokens.join() &&
      (!capture || sameRoutes(ran.routes, reference.routes))
    if (!equal || problems.length) failures++
    rows.set(cell, [
      file.name,
      isa,
      threads,
      chunk,
      batch,
      place,
      use.text,
      swap === 'none' ? '-' : swap,
      batch > 1 ? tierSet : '-',
      replay ? 'replayed' : capture ? 'captured' : '-',
      cached ? ran.reused : '-',
      others.length
        ? others.map(([kernel, other]) => `${kernel}:${other}`).join(',')
        : `${Object.keys(kernels).length} x ${isa}`,
      tally(ran.rows),
      ran.hash.slice(0, 12),
      problems.length ? `NOT AS ASKED: ${problems[0]}` : equal ? 'equal' : 'DIFFERS'
    ])
  }

  const runGroup = async (group) => {
    const opened = await openPlaced(file, group[0])
    try {
      const tokenizer = createTokenizer(opened.metadata)
      for (const cell of group) {
        const started = performance.now()
        await runOne(opened, tokenizer, cell)
        milliseconds.set(cell, performance.now() - started)
      }
    } finally {
      await opened.dispose()
    }
  }

  // The first cell is what the others are compared with and replay, so it has to be the file as it is.
  const [first, ...others] = [...groups.values()].sort((a, b) => swaps(a[0]) - swaps(b[0]))
  await runGroup(first)
  await inLanes(
    availableParallelism(),
    others.filter(([{ threads }]) => threads === 1),
    runGroup
  )
  await inLanes(
    1,
    others.filter(([{ threads }]) => threads > 1),
    runGroup
  )
  return {
    hash: reference.hash,
    failures,
    rows: cells.map((cell) => rows.get(cell)),
    milliseconds: cells.map((cell) => milliseconds.get(cell))
  }
}

/** Whether the cell's experts change while it serves. */
const swaps = ({ swap = 'none' }) => Number(swap !== 'none')

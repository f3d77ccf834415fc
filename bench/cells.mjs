// The settings that determinism is checked over, and which of them a short run takes.
import { seededRandom } from './harness.mjs'

export const axes = {
  isa: ['scalar', 'avx2', 'avx512', 'neon'],
  threads: [1, 2, 3],
  chunk: [1, 7, 64, 'all'],
  batch: [1, 3, 8]
}

/**
 * Where experts are: all in memory, or in a store that keeps so many of a hundred, read from the file or from a checkpoint of it; `hot`: a
 * quarter of each layer's are pinned.
 */
export const places = [
  'memory',
  'file 100%',
  'file 50%',
  'file 10%',
  'checkpoint 100%',
  'checkpoint 50%',
  'checkpoint 50% hot',
  'checkpoint 10%'
]
const takenInTurns = [
  ['file 100%', 'checkpoint 50% hot'],
  ['checkpoint 100%', 'checkpoint 50%']
]
/** Places for one of the files of a short run: two of them are every other file's, so that there are no more cells than of six. */
export const placesInTurn = (turn) => places.filter((place) => !takenInTurns[turn % 2].includes(place))
/** Whether the other requests of a step may use every expert, or a TierSet that changes while they run. */
export const tierSets = ['all', 'changing']
/** Whether sequence 0 is routed, captures its routes too, or replays those of the first cell. */
export const routes = ['captured', 'routed', 'replayed']
/** Whether the changed experts were in the file from the start, or came by a swap: for all requests, or beside the old for later ones. */
export const swaps = ['none', 'alone', 'beside']

/** Every combination of the axes' values. */
export function crossProduct(axes) {
  return Object.entries(axes).reduce(
    (cells, [name, values]) => cells.flatMap((cell) => values.map((value) => ({ ...cell, [name]: value }))),
    [{}]
  )
}

const pairsOf = (cell) => {
  const names = Object.keys(cell)
  return names.flatMap((a, i) => names.slice(i + 1).map((b) => `${a}=${cell[a]},${b}=${cell[b]}`))
}

/** A seeded choice of combinations in which every pair of values of two axes occurs at least once. */
export function pairwise(axes, seed = 1) {
  const all = crossProduct(axes)
  const random = seededRandom(seed)
  const order = all
    .map((cell) => ({ cell, rank: random() }))
    .sort((a, b) => a.rank - b.rank)
    .map(({ cell }) => cell)
  const left = new Set(all.flatMap(pairsOf))
  const chosen = []
  while (left.size) {
    const news = (cell) => pairsOf(cell).filter((pair) => left.has(pair)).length
    const best = order.reduce((a, b) => (news(b) > news(a) ? b : a))
    for (const pair of pairsOf(best)) left.delete(pair)
    chosen.push(best)
  }
  return chosen
}

/** Launches of attention: keys and values into the cache, then softmax attention over it (shaders/kv_write, attention, attention_merge). */
import type { KvType } from '../../../native.js'
import type { DeviceFacts, Launch } from './launch.js'
import { bits, grid, words } from './launch.js'

export interface AttentionShape {
  /** Rows of the step: tokens of one sequence lie side by side. */
  rows: number
  heads: number
  kvHeads: number
  headDim: number
  valueDim: number
  scale: number
  kvType: KvType
  /** Floats from row to row of values, and before a row's first. Default: they lie packed. */
  values?: { stride: number; offset: number }
  /** Positions that a row sees; 0 (the default) = all. */
  window?: number
  /** Each head has a score without a value: the last launch of a part has a buffer more, sinks f32 [heads]. */
  sinks?: boolean
  /** Most positions that any row may see. */
  positions: number
  /** A merge quantises its rows too: a row is whole blocks of 32. */
  quantise?: boolean
  /** Some sequence has more than one row: rows share what they read. */
  together: boolean
  /** Beyond so many bytes of partial sums the rows are done in parts. Default: 16 MiB. */
  scratchLimit?: number
}

export interface AttentionPart {
  /** Writes `out`, or partial sums where there is a `merge`. */
  attend: Launch
  /** With `quantise` it has two more buffers: blocks (out, `activationBytes`) and status. */
  merge?: Launch
}

export interface AttentionLaunches {
  append: Launch
  /** In this order; each on some of the rows. All use the same memory for partial sums. */
  parts: AttentionPart[]
  /** Bytes of partial sums; 0 = attention writes its result at once. */
  scratchBytes: number
}

/** Positions that a workgroup has scores of. */
export const chunk = 256
/** Queries that share a workgroup. */
const queries = 4
const mostScratchBytes = 16 * 2 ** 20

/** Bytes of partial sums of one row over so many positions. */
function rowScratchBytes({
  heads,
  valueDim,
  positions
}: Pick<AttentionShape, 'heads' | 'valueDim' | 'positions'>): number {
  const chunks = Math.ceil(positions / chunk)
  return chunks > 1 ? heads * chunks * (valueDim + 2) * 4 : 0
}

/** Bytes of partial sums with which every shape of up to so many rows and positions can do, as its `scratchLimit`. */
export function scratchLimitOf(shape: Pick<AttentionShape, 'rows' | 'heads' | 'valueDim' | 'positions'>): number {
  const row = rowScratchBytes(shape)
  return Math.max(Math.min(shape.rows, queries) * row, Math.min(mostScratchBytes, shape.rows * row))
}

export function attentionLaunches(shape: AttentionShape, facts: DeviceFacts): AttentionLaunches {
  const {
    rows,
    heads,
    kvHeads,
    headDim,
    valueDim,
    scale,
    kvType,
    positions,
    together,
    values,
    quantise = false,
    window = 0,
    sinks = false,
    scratchLimit = mostScratchBytes
  } = shape
  const f16 = kvType === 'f16'
  const rowWords = kvHeads * (headDim + (f16 ? Math.ceil(valueDim / 2) : valueDim))
  const [y, z] = grid(rows, facts)
  const append: Launch = {
    shader: 'kv_write',
    defines: { F16: f16, PAIRS: valueDim % 2 === 0 },
    workgroups: [Math.ceil(rowWords / 64), y, z],
    params: words(rows, kvHeads, headDim, valueDim, values?.stride ?? kvHeads * valueDim, values?.offset ?? 0)
  }

  const group = heads / kvHeads
  const blockHeads = group === 1 ? 1 : group === 2 ? 2 : queries
  const blockRows = together ? queries / blockHeads : 1
  const chunks = Math.max(1, Math.ceil(positions / chunk))
  const rowBytes = rowScratchBytes(shape)
  const most = Math.min(scratchLimit, facts.limits.maxStorageBufferBindingSize)
  const partRows = Math.min(
    rows,
    rowBytes > 0 ? Math.max(1, Math.floor(most / rowBytes / blockRows)) * blockRows : rows
  )

  const parts: AttentionPart[] = []
  for (let first = 0; first < rows; first += partRows) {
    const end = Math.min(rows, first + partRows)
    const attend: Launch = {
      shader: 'attention',
      defines: {
        F16: f16,
        QUADS: valueDim % 4 === 0,
        QUERIES: blockHeads * blockRows,
        DIM: Math.ceil(headDim / 64) * 64,
        TOGETHER: blockRows > 1,
        SINKS: sinks && chunks === 1
      },
      workgroups: [kvHeads * Math.ceil(group / blockHeads), Math.ceil((end - first) / blockRows), chunks],
      params: words(first, end, heads, kvHeads, headDim, valueDim, blockRows, blockHeads, chunks, bits(scale), window)
    }
    if (chunks === 1) {
      parts.push({ attend })
      continue
    }
    const merge: Launch = {
      shader: 'attention_merge',
      defines: { QUANTISE: quantise, SINKS: sinks },
      workgroups: grid((end - first) * Math.ceil((heads * valueDim) / 64), facts),
      params: words(first, end, heads, valueDim, chunks, window)
    }
    parts.push({ attend, merge })
  }
  return { append, parts, scratchBytes: partRows * rowBytes }
}

import { blockOf } from '../../../kernels/layout.js'
import type { DType } from '../../../native.js'
import type { DeviceFacts, Launch } from './launch.js'
import { grid, words } from './launch.js'

export interface EmbedShape {
  type: DType
  /** Of the table in the file's layout. */
  rows: number
  columns: number
  /** Ids that are looked up; left out: all rows in order (dequantise). */
  count?: number
}

/** A launch and the part of the table, in bytes, that it binds. */
export interface EmbedPart {
  launch: Launch
  table: { offset: number; size: number }
  /** The rows of `out` that it writes where nothing is looked up; all of it otherwise. */
  first: number
  rows: number
}

/** Buffers: table (the part), out f32 [count][columns] (of a dequantise: the part's rows), status, and ids i32 where they are looked up. */
export function embedLaunches({ type, rows, columns, count }: EmbedShape, facts: DeviceFacts): EmbedPart[] {
  const { block, bytes } = blockOf(type)
  const rowBytes = (columns / block) * bytes
  const unit = 256 // rows, so that every part begins where a binding may
  const out = count === undefined ? columns * 4 : 0
  const most =
    Math.max(1, Math.floor(facts.limits.maxStorageBufferBindingSize / (Math.max(rowBytes, out) * unit))) * unit
  const parts: EmbedPart[] = []
  for (let first = 0; first < rows; first += most) {
    const own = Math.min(most, rows - first)
    const looked = count ?? own
    parts.push({
      launch: {
        shader: 'embed',
        defines: { TYPE: type, LOOKUP: count !== undefined },
        workgroups: grid(Math.ceil((looked * columns) / 64), facts),
        params: words(columns, looked, first, own, rows)
      },
      table: { offset: first * rowBytes, size: Math.ceil((own * rowBytes) / 4) * 4 },
      first,
      rows: own
    })
  }
  return parts
}

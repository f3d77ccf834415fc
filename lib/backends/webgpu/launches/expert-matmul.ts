/** Launches of one layer's experts: tiles, then gate and up with silu, then down; each part once per slab of weights. */
import type { ExpertActivation } from '../../../kernels/requests.js'
import type { DType } from '../../../native.js'
import type { DeviceFacts, Launch } from './launch.js'
import { grid, words } from './launch.js'
import {
  isQuantised,
  leastTileRows,
  quadBytes,
  rowGroups,
  type Tile,
  tileDefines,
  tileOfExperts,
  tileRows
} from './tile.js'

export interface ExpertShape {
  tokens: number
  k: number
  experts: number
  width: number
  hidden: number
  types: { gate: DType; up: DType; down: DType }
  /** Default `silu`. */
  activation?: ExpertActivation
  /** Which matrices have biases, f32 [experts][rows]: their launches have these as a buffer more. */
  biases?: Partial<Record<'gate' | 'up' | 'down', boolean>>
}

/** Where a matrix of every expert lies in a binding, in bytes, each a multiple of 16. */
export interface MatrixPlace {
  /** From slot to slot. */
  stride: number
  /** From a slot's begin. */
  offset: number
}

/** A binding with weights of several experts: the slots [first, first + slots) of the slot table's numbers. */
export interface SlabShape {
  first: number
  slots: number
  gate: MatrixPlace
  up: MatrixPlace
  down: MatrixPlace
}

const rowsOf = ({ tokens, k }: ExpertShape) => tokens * k
/** One for all matrices of a layer, whose tiles are the same list. */
function tileOf(shape: ExpertShape, facts: DeviceFacts): Tile {
  const mean = rowsOf(shape) / Math.min(shape.experts, Math.max(1, rowsOf(shape)))
  return tileOfExperts(mean, Object.values(shape.types).every(isQuantised), facts)
}

/** The most tiles of so many rows that any routing of these sizes makes: every expert used, all further rows on one. */
function tilesOf(shape: ExpertShape, rowsOfTile: number): number {
  const rows = rowsOf(shape)
  const used = Math.min(shape.experts, rows)
  return used + Math.floor((rows - used) / rowsOfTile)
}

export const mostTiles = (shape: ExpertShape, facts: DeviceFacts): number =>
  tilesOf(shape, tileRows(tileOf(shape, facts)))

/** Bytes of the tiles' list; enough for fewer tokens too, whose tiles may be smaller and more. */
export const tilesBytes = (shape: ExpertShape): number => tilesOf(shape, leastTileRows) * quadBytes

/** How `dispatchLaunch` makes the tiles of these sizes. */
export const expertTiles = (shape: ExpertShape, facts: DeviceFacts): { size: number; most: number } => ({
  size: tileRows(tileOf(shape, facts)),
  most: mostTiles(shape, facts)
})

/** Whether gate and up share a launch, which needs no buffers between them. */
export const isFused = ({ types, activation = 'silu', biases }: ExpertShape): boolean =>
  types.gate === types.up && activation === 'silu' && !biases?.gate && !biases?.up

/** Buffers: offsets, slots (both from dispatch), tiles (`tilesBytes`), status. Once a layer, for all slabs. */
export function expertTilesLaunch(shape: ExpertShape, facts: DeviceFacts): Launch {
  const { size, most } = expertTiles(shape, facts)
  return {
    shader: 'expert_tiles',
    defines: {},
    workgroups: [1, 1, 1],
    params: words(shape.experts, rowsOf(shape), size, most)
  }
}

interface Part {
  type: DType
  rows: number
  columns: number
  gather: boolean
  bias: boolean
}

function partLaunch(
  shape: ExpertShape,
  slab: SlabShape,
  part: Part,
  places: MatrixPlace[],
  facts: DeviceFacts
): Launch {
  const tile = tileOf(shape, facts)
  const [first, second] = places.flatMap(({ stride, offset }) => [[stride / quadBytes, offset / quadBytes]])
  const defines = {
    ...tileDefines(part.type, tile, places.length as 1 | 2, facts),
    GATHER: part.gather,
    BIAS: part.bias
  }
  return {
    shader: 'expert_matmul',
    defines,
    workgroups: [rowGroups(part.rows, defines), mostTiles(shape, facts), 1],
    params: words(part.rows, part.columns, shape.k, slab.first, slab.slots, ...first!, ...(second ?? [0, 0]))
  }
}

/**
 * Fused: one launch. Buffers: tiles, slots, slot table (u32 [experts], 0xffffffff = in no slot), gate weights, activations of the tokens, hidden out
 * f32 [dispatched rows][hidden], up weights (may be the same buffer as gate's).
 * Not fused: a launch for gate and one for up, each with tiles, slots, slot table, its weights, activations, its out, its biases; then `siluMulLaunch`.
 */
export function gateUpLaunches(shape: ExpertShape, slab: SlabShape, facts: DeviceFacts): Launch[] {
  const { biases } = shape
  const part = { rows: shape.hidden, columns: shape.width, gather: true, bias: false }
  const { gate, up } = shape.types
  if (isFused(shape)) return [partLaunch(shape, slab, { ...part, type: gate }, [slab.gate, slab.up], facts)]
  return [
    partLaunch(shape, slab, { ...part, type: gate, bias: biases?.gate ?? false }, [slab.gate], facts),
    partLaunch(shape, slab, { ...part, type: up, bias: biases?.up ?? false }, [slab.up], facts)
  ]
}

/** Buffers: gate, up, out: f32 [dispatched rows][hidden] each. */
export function siluMulLaunch(shape: ExpertShape, facts: DeviceFacts): Launch {
  const count = rowsOf(shape) * shape.hidden
  const defines = { CLAMPED: shape.activation === 'clamped_swiglu' }
  return { shader: 'silu_mul', defines, workgroups: grid(Math.ceil(count / 64), facts), params: words(count) }
}

/** Buffers: tiles, slots, slot table, down weights, activations of the dispatched rows, out f32 [dispatched rows][width], biases. */
export function downLaunch(shape: ExpertShape, slab: SlabShape, facts: DeviceFacts): Launch {
  const part = {
    type: shape.types.down,
    rows: shape.width,
    columns: shape.hidden,
    gather: false,
    bias: shape.biases?.down ?? false
  }
  return partLaunch(shape, slab, part, [slab.down], facts)
}

/** What the activations of a layer are for: the tokens' or the hidden rows' quantised, or both. */
export const quantises = ({ types }: ExpertShape): { input: boolean; hidden: boolean } => ({
  input: isQuantised(types.gate) || isQuantised(types.up),
  hidden: isQuantised(types.down)
})

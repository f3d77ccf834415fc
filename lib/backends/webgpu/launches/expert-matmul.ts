/** Launches of one layer's experts: tiles, then gate and up with silu, then down; each part once per slab of weights. */
import type { DType } from '../../../native.js'
import type { DeviceFacts, Launch } from './launch.js'
import { grid, words } from './launch.js'
import { isQuantised, quadBytes, rowGroups, tileDefines, tileTokens } from './tile.js'

export interface ExpertShape {
  tokens: number
  k: number
  experts: number
  width: number
  hidden: number
  types: { gate: DType; up: DType; down: DType }
  countLoads?: boolean
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
const tileOf = (shape: ExpertShape) => tileTokens(rowsOf(shape) / Math.min(shape.experts, Math.max(1, rowsOf(shape))))

/** The most tiles that any routing of these sizes makes. */
export function mostTiles(shape: ExpertShape): number {
  const rows = rowsOf(shape)
  const used = Math.min(shape.experts, rows)
  return used + Math.floor((rows - used) / tileOf(shape))
}

/** How `dispatchLaunch` makes the tiles of these sizes. */
export const expertTiles = (shape: ExpertShape): { size: number; most: number } => ({
  size: tileOf(shape),
  most: mostTiles(shape)
})

/** Bytes of the tiles' list. */
export const tilesBytes = (shape: ExpertShape): number => mostTiles(shape) * quadBytes

/** Whether gate and up share a launch, which needs no buffers between them. */
export const isFused = ({ types }: ExpertShape): boolean => types.gate === types.up

/** Buffers: offsets, slots (both from dispatch), tiles (`tilesBytes`), status. Once a layer, for all slabs. */
export function expertTilesLaunch(shape: ExpertShape): Launch {
  return {
    shader: 'expert_tiles',
    defines: {},
    workgroups: [1, 1, 1],
    params: words(shape.experts, rowsOf(shape), tileOf(shape), mostTiles(shape))
  }
}

interface Part {
  type: DType
  rows: number
  columns: number
  gather: boolean
}

function partLaunch(
  shape: ExpertShape,
  slab: SlabShape,
  part: Part,
  places: MatrixPlace[],
  facts: DeviceFacts
): Launch {
  const tile = {
    type: part.type,
    tokens: tileOf(shape),
    matrices: places.length as 1 | 2,
    countLoads: shape.countLoads ?? false
  }
  const [first, second] = places.flatMap(({ stride, offset }) => [[stride / quadBytes, offset / quadBytes]])
  return {
    shader: 'expert_matmul',
    defines: { ...tileDefines(tile, facts), GATHER: part.gather },
    workgroups: [rowGroups(part.rows, facts), mostTiles(shape), 1],
    params: words(part.rows, part.columns, shape.k, slab.first, slab.slots, ...first!, ...(second ?? [0, 0]))
  }
}

/**
 * Fused: one launch. Buffers: tiles, slots, slot table (u32 [experts], 0xffffffff = in no slot), gate weights, activations of the tokens, hidden out
 * f32 [dispatched rows][hidden], up weights (may be the same buffer as gate's); with countLoads a counter.
 * Not fused: a launch for gate and one for up, each with tiles, slots, slot table, its weights, activations, its out; then `siluMulLaunch`.
 */
export function gateUpLaunches(shape: ExpertShape, slab: SlabShape, facts: DeviceFacts): Launch[] {
  const part = { rows: shape.hidden, columns: shape.width, gather: true }
  const { gate, up } = shape.types
  if (isFused(shape)) return [partLaunch(shape, slab, { ...part, type: gate }, [slab.gate, slab.up], facts)]
  return [
    partLaunch(shape, slab, { ...part, type: gate }, [slab.gate], facts),
    partLaunch(shape, slab, { ...part, type: up }, [slab.up], facts)
  ]
}

/** Buffers: gate, up, out: f32 [dispatched rows][hidden] each. */
export function siluMulLaunch(shape: ExpertShape, facts: DeviceFacts): Launch {
  const count = rowsOf(shape) * shape.hidden
  return { shader: 'silu_mul', defines: {}, workgroups: grid(Math.ceil(count / 64), facts), params: words(count) }
}

/** Buffers: tiles, slots, slot table, down weights, activations of the dispatched rows, out f32 [dispatched rows][width]; with countLoads a counter. */
export function downLaunch(shape: ExpertShape, slab: SlabShape, facts: DeviceFacts): Launch {
  const part = { type: shape.types.down, rows: shape.width, columns: shape.hidden, gather: false }
  return partLaunch(shape, slab, part, [slab.down], facts)
}

/** What the activations of a layer are for: the tokens' or the hidden rows' quantised, or both. */
export const quantises = ({ types }: ExpertShape): { input: boolean; hidden: boolean } => ({
  input: isQuantised(types.gate) || isQuantised(types.up),
  hidden: isQuantised(types.down)
})

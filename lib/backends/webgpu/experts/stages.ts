/** What a layer's experts are launched with, in order, each with the names of its buffers. Pure: no device. */
import type { ExpertLayout } from '../../../native.js'
import { combineLaunch, dispatchLaunch } from '../launches/dispatch.js'
import type { ExpertShape, SlabShape } from '../launches/expert-matmul.js'
import {
  downLaunch,
  expertTiles,
  gateUpLaunches,
  isFused,
  quantises,
  siluMulLaunch,
  tilesBytes
} from '../launches/expert-matmul.js'
import type { DeviceFacts, Launch } from '../launches/launch.js'
import { quantiseLaunch } from '../launches/quantise.js'
import { activationBytes } from '../launches/tile.js'

/** Scratch memory, one set for all layers. Rows are dispatched ones. */
export type ScratchName =
  /** [experts + 1], and [rows] each: what dispatch gives. */
  | 'offsets'
  | 'slots'
  | 'rows'
  | 'tiles'
  /** Activations of rows as quantised weights take them. */
  | 'hiddenBlocks'
  /** [rows][hidden]; gate and up where they are not of one type. */
  | 'hidden'
  | 'gate'
  | 'up'
  /** [rows][width] */
  | 'values'

/** Of a layer whose experts have biases. */
export type BiasName = 'gateBias' | 'upBias' | 'downBias'

/** Scratch, the layer's own slices, the plan's buffers (x, and its quantised rows, out), the layer's row of the slot table, and the slab. */
export type BufferName =
  | ScratchName
  | BiasName
  | 'ids'
  | 'weights'
  | 'status'
  | 'x'
  | 'blocks'
  | 'out'
  | 'table'
  | 'slab'

export interface Stage {
  launch: Launch
  buffers: readonly BufferName[]
}

/** The slots of one slab. */
export interface SlabSlots {
  first: number
  slots: number
  slotBytes: number
}

/** Bytes of each. */
export function scratchBytes(shape: ExpertShape): Partial<Record<ScratchName, number>> {
  const rows = shape.tokens * shape.k
  const { hidden } = quantises(shape)
  const floats = (columns: number): number => rows * columns * 4
  return {
    offsets: (shape.experts + 1) * 4,
    slots: rows * 4,
    rows: rows * 4,
    tiles: tilesBytes(shape),
    hidden: floats(shape.hidden),
    values: floats(shape.width),
    ...(hidden && { hiddenBlocks: activationBytes(rows, shape.hidden) }),
    ...(!isFused(shape) && { gate: floats(shape.hidden), up: floats(shape.hidden) })
  }
}

/** What the experts' first matrices write, row by row. */
export const firstOutputs = (shape: ExpertShape): ScratchName[] => (isFused(shape) ? ['hidden'] : ['gate', 'up'])

/** Once a layer: before its experts. */
export function stagesBefore(shape: ExpertShape, facts: DeviceFacts): Stage[] {
  const launch = dispatchLaunch(shape, expertTiles(shape, facts))
  return [{ launch, buffers: ['ids', 'offsets', 'slots', 'rows', 'status', 'tiles'] }]
}

/** Gate, up and silu of the experts in a slab. */
export function stagesInto(shape: ExpertShape, layout: ExpertLayout, slab: SlabSlots, facts: DeviceFacts): Stage[] {
  const launches = gateUpLaunches(shape, slabShape(layout, slab), facts)
  const activations = (type: ExpertShape['types']['gate']): BufferName =>
    quantises({ ...shape, types: { ...shape.types, gate: type, up: type } }).input ? 'blocks' : 'x'
  const { gate, up } = shape.types
  const [first, second] = launches as [Launch, Launch?]
  if (!second)
    return [{ launch: first, buffers: ['tiles', 'slots', 'table', 'slab', activations(gate), 'hidden', 'slab'] }]
  const { biases } = shape
  const withBias = (names: BufferName[], bias: BiasName, has = false): BufferName[] => (has ? [...names, bias] : names)
  const inputs = (type: ExpertShape['types']['gate']): BufferName[] => [
    'tiles',
    'slots',
    'table',
    'slab',
    activations(type)
  ]
  return [
    { launch: first, buffers: withBias([...inputs(gate), 'gate'], 'gateBias', biases?.gate) },
    { launch: second, buffers: withBias([...inputs(up), 'up'], 'upBias', biases?.up) }
  ]
}

/** After those of all slabs, before the first `stagesOut`. */
export function stagesBetween(shape: ExpertShape, facts: DeviceFacts): Stage[] {
  const { tokens, k, hidden } = shape
  const stages: Stage[] = []
  if (!isFused(shape)) stages.push({ launch: siluMulLaunch(shape, facts), buffers: ['gate', 'up', 'hidden'] })
  if (quantises(shape).hidden) {
    const launch = quantiseLaunch({ rows: tokens * k, columns: hidden, dispatched: { k } }, facts)
    stages.push({ launch, buffers: ['hidden', 'hiddenBlocks', 'status', 'slots'] })
  }
  return stages
}

/** Down of the experts in a slab. */
export function stagesOut(shape: ExpertShape, layout: ExpertLayout, slab: SlabSlots, facts: DeviceFacts): Stage[] {
  const activations = quantises(shape).hidden ? 'hiddenBlocks' : 'hidden'
  const launch = downLaunch(shape, slabShape(layout, slab), facts)
  const bias: BufferName[] = shape.biases?.down ? ['downBias'] : []
  return [{ launch, buffers: ['tiles', 'slots', 'table', 'slab', activations, 'values', ...bias] }]
}

/** Once a layer: the weighted sum, added to the plan's buffer. */
export function stagesAfter({ tokens, k, experts, width }: ExpertShape, facts: DeviceFacts): Stage[] {
  const launch = combineLaunch({ tokens, k, experts, width, add: true }, facts)
  return [{ launch, buffers: ['values', 'ids', 'weights', 'rows', 'out', 'status'] }]
}

function slabShape({ gate, up, down }: ExpertLayout, { first, slots, slotBytes }: SlabSlots): SlabShape {
  const place = ({ offset }: { offset: number }) => ({ stride: slotBytes, offset })
  return { first, slots, gate: place(gate), up: place(up), down: place(down) }
}

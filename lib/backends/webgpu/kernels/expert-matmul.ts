import { createError } from '../../../errors/index.js'
import type { ExpertShape, SlabShape } from '../launches/expert-matmul.js'
import {
  downLaunch,
  expertTilesLaunch,
  gateUpLaunches,
  isFused,
  quantises,
  siluMulLaunch,
  tilesBytes
} from '../launches/expert-matmul.js'
import type { DeviceFacts } from '../launches/launch.js'
import { quantiseLaunch } from '../launches/quantise.js'
import { activationBytes, isQuantised } from '../launches/tile.js'
import { arrayArgument, choiceArgument, exactArgument, integerArgument, partsOf, refused } from './arguments.js'
import type { GpuKernel, KernelCall } from './call.js'
import { type MatrixArgument, matrixArgument, matrixInput, partOf } from './matrix.js'

const mostExperts = 65536

interface Matrices<T> {
  gate: T
  up: T
  down: T
}

/** Experts that one set of bindings holds. Sixteen experts of any matrix begin where a binding may. */
function expertsOfSlab(matrices: Matrices<MatrixArgument>, experts: number, { limits }: DeviceFacts): number {
  const largest = Math.max(matrices.gate.bytes, matrices.up.bytes, matrices.down.bytes)
  const most = Math.floor(limits.maxStorageBufferBindingSize / largest)
  return most >= experts ? experts : Math.max(1, most - (most % 16))
}

/** Slot = expert: the matrices of a request follow one another. */
const slabOf = ({ gate, up, down }: Matrices<MatrixArgument>, first: number, slots: number): SlabShape => ({
  first,
  slots,
  gate: { stride: gate.bytes, offset: 0 },
  up: { stride: up.bytes, offset: 0 },
  down: { stride: down.bytes, offset: 0 }
})

async function slotTable(call: KernelCall, experts: number): Promise<GPUBufferBinding> {
  const table = await call.scratch(experts * 4)
  call.device.write(
    table.buffer,
    0,
    Uint32Array.from({ length: experts }, (_, expert) => expert)
  )
  return table
}

export const expertMatmul: GpuKernel<'expertMatmul'> = async (call, r) => {
  const { facts } = call
  const values = arrayArgument('x', r.x, 'f32', 0).length
  const k = integerArgument('k', r.k, 1, 2 ** 16)
  const experts = integerArgument('offsets', arrayArgument('offsets', r.offsets, 'u32', 2).length - 1, 1, mostExperts)
  const rows = arrayArgument('slots', r.slots, 'u32', 0).length
  const tokens = partsOf('slots', rows, k)
  const matrices = {
    gate: matrixArgument('gate', r.gate, experts),
    up: matrixArgument('up', r.up, experts),
    down: matrixArgument('down', r.down, experts)
  }
  const { gate, up, down } = matrices
  const [width, hidden] = [gate.columns, gate.rows]
  if (up.rows !== hidden || up.columns !== width) throw refused('up', 'the size of gate', `${up.rows} × ${up.columns}`)
  if (down.rows !== width || down.columns !== hidden)
    throw refused('down', 'the size of gate transposed', `${down.rows} × ${down.columns}`)
  if (values !== tokens * width) throw refused('x', `${tokens * width} elements`, String(values))

  const activation = choiceArgument('activation', r.activation ?? 'silu', ['silu', 'clamped_swiglu'])
  const biasOf = async (name: keyof typeof matrices) => {
    const given = r.biases?.[name]
    if (given === undefined) return []
    return [
      await call.input(`biases.${name}`, exactArgument(`biases.${name}`, given, experts * matrices[name].rows), 'f32')
    ]
  }
  const biases = { gate: await biasOf('gate'), up: await biasOf('up'), down: await biasOf('down') }
  const has = (name: keyof typeof matrices) => biases[name].length > 0
  const types = { gate: gate.type, up: up.type, down: down.type }
  const biased = { gate: has('gate'), up: has('up'), down: has('down') }
  const shape: ExpertShape = { tokens, k, experts, width, hidden, types, activation, biases: biased }
  const x = await call.input('x', r.x, 'f32')
  const offsets = await call.input('offsets', r.offsets, 'u32')
  const slots = await call.input('slots', r.slots, 'u32')
  const weights = {
    gate: await matrixInput(call, 'gate', r.gate, gate.bytes * experts),
    up: await matrixInput(call, 'up', r.up, up.bytes * experts),
    down: await matrixInput(call, 'down', r.down, down.bytes * experts)
  }
  const out = await call.output('out', r.out, 'f32', rows * width)
  const status = await call.status((words) => {
    if (words[1] !== 0xffffffff) {
      const message = `expertMatmul: offsets and slots are no dispatch of ${rows} rows (place ${words[1]})`
      throw createError('VALIDATION_ERROR', message, { argument: 'offsets' })
    }
    call.checkFinite(words[0]!)
  })
  const tiles = await call.scratch(tilesBytes(shape))
  await call.run(expertTilesLaunch(shape, facts), [offsets, slots, tiles, status])
  if (rows === 0) return out.array

  const table = await slotTable(call, experts)
  const slab = expertsOfSlab(matrices, experts, facts)
  const part = (name: keyof typeof weights, first: number) => {
    const { bytes } = matrices[name]
    return partOf(weights[name], first * bytes, Math.min(slab, experts - first) * bytes)
  }
  const want = quantises(shape)
  let blocks = x
  if (want.input) {
    blocks = await call.scratch(activationBytes(tokens, width))
    await call.run(quantiseLaunch({ rows: tokens, columns: width }, facts), [x, blocks, status])
  }
  const inputOf = (type: keyof typeof types) => (isQuantised(types[type]) ? blocks : x)
  const floats = rows * hidden * 4
  const hiddenRows = await call.scratch(floats)
  const fused = isFused(shape)
  const apart = fused ? undefined : { gate: await call.scratch(floats), up: await call.scratch(floats) }
  for (let first = 0; first < experts; first += slab) {
    const launches = gateUpLaunches(shape, slabOf(matrices, first, slab), facts)
    if (apart) {
      await call.run(launches[0]!, [
        tiles,
        slots,
        table,
        part('gate', first),
        inputOf('gate'),
        apart.gate,
        ...biases.gate
      ])
      await call.run(launches[1]!, [tiles, slots, table, part('up', first), inputOf('up'), apart.up, ...biases.up])
    } else {
      await call.run(launches[0]!, [
        tiles,
        slots,
        table,
        part('gate', first),
        inputOf('gate'),
        hiddenRows,
        part('up', first)
      ])
    }
  }
  if (apart) await call.run(siluMulLaunch(shape, facts), [apart.gate, apart.up, hiddenRows])
  let activations = hiddenRows
  if (want.hidden) {
    activations = await call.scratch(activationBytes(rows, hidden))
    await call.run(quantiseLaunch({ rows, columns: hidden, dispatched: { k } }, facts), [
      hiddenRows,
      activations,
      status,
      slots
    ])
  }
  for (let first = 0; first < experts; first += slab) {
    const launch = downLaunch(shape, slabOf(matrices, first, slab), facts)
    await call.run(launch, [tiles, slots, table, part('down', first), activations, out.binding, ...biases.down])
  }
  return out.array
}

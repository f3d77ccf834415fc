/**
 * A layer's experts on the GPU without a model around them: near the CPU's where every expert has a slot, and the same bits below that,
 * however few slots there are, with the counts of the simulator.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openBackend } from 'tiered-moe/kernels'
import { GpuDevice } from '../../lib/backends/webgpu/device.js'
import { type ExpertStep, Experts } from '../../lib/backends/webgpu/experts/experts.js'
import { quantiseLaunch } from '../../lib/backends/webgpu/launches/quantise.js'
import { activationBytes } from '../../lib/backends/webgpu/launches/tile.js'
import { onNode } from '../../lib/backends/webgpu/node-provider.js'
import type { Matrix } from '../../lib/kernels/requests.js'
import { readModel } from '../../lib/model/index.js'
import type { DType, ExpertOptions } from '../../lib/native.js'
import { addon } from '../checkpoint/checkpoints.js'
import { TENSOR_TYPES } from '../fixtures/gguf.js'
import { type MoeModelOptions, moeModel } from '../fixtures/moe-model.js'
import { random } from '../fixtures/weights.js'
import { openGpu } from './adapter.js'

const [layers, experts, k, width] = [2, 8, 3, 64]
const most = 12
const folder = t.testdir({})
const cpu = openBackend('cpu', { threads: 1 })
t.teardown(() => cpu.dispose())
const cancel = addon.createCancel()
const host: ExpertOptions = {
  budgetBytes: 2 ** 30,
  kvReserveBytes: 0,
  policy: 'adaptive',
  ioThreads: 2,
  seed: 5,
  prefetch: 'off'
}

const typeName = (id: number): DType => Object.entries(TENSOR_TYPES).find(([, [own]]) => own === id)![0] as DType

/** What a layer adds to its tokens, by the CPU's kernels. */
function byCpu(model: ReturnType<typeof moeModel>, layer: number, step: StepData): Float32Array {
  const packed = (part: string): Matrix => {
    const { typeId, shape, data } = model.tensors.find(({ name }) => name === `blk.${layer}.ffn_${part}_exps.weight`)!
    const [columns, rows] = shape as [number, number]
    return cpu.pack({ type: typeName(typeId), rows, columns, data: new Uint8Array(data) }, experts)
  }
  const { ids, weights, x, out } = step
  const { offsets, slots, rows } = cpu.sync.dispatch({ ids, k, experts })
  const values = cpu.sync.expertMatmul({
    x,
    k,
    offsets,
    slots,
    gate: packed('gate'),
    up: packed('up'),
    down: packed('down')
  })
  return cpu.sync.combine({ values, ids, weights, rows, k, experts, width, add: true, out: out.slice() })
}

interface StepData {
  rows: number
  ids: Int32Array
  weights: Float32Array
  x: Float32Array
  out: Float32Array
}

/** Random states and routes; some experts are chosen more often. */
function stepData(seed: number, rows: number): StepData {
  const next = random(seed)
  const floats = (count: number) => Float32Array.from({ length: count }, () => 2 * next() - 1)
  const ids: number[] = []
  for (let row = 0; row < rows; row++) {
    const chosen = new Set<number>()
    while (chosen.size < k) chosen.add(Math.floor(next() ** 1.5 * experts))
    ids.push(...chosen)
  }
  return {
    rows,
    ids: Int32Array.from(ids),
    weights: floats(rows * k),
    x: floats(rows * width),
    out: floats(rows * width)
  }
}

/** Experts on a device with buffers around them. */
class Setting {
  private constructor(
    readonly device: GpuDevice,
    readonly experts: Experts,
    readonly buffers: Record<'x' | 'out' | 'ids' | 'weights' | 'status' | 'blocks', GPUBuffer>
  ) {}

  static async open(device: GpuDevice, path: string, options: Partial<ExpertOptions>, slabBytes?: number) {
    const file = await addon.openGguf(path)
    try {
      const { plan } = readModel(file)
      const make = (bytes: number) => device.memory.allocate(bytes, 'a test')
      const [x, out, ids, weights, status, blocks] = [
        await make(most * width * 4),
        await make(most * width * 4),
        await make(most * k * 4),
        await make(most * k * 4),
        await make(256),
        await make(activationBytes(most, width))
      ]
      device.write(status, 0, new Uint32Array(64).fill(0xffffffff))
      const op = plan.ops.find((op) => op.op === 'experts')
      const made = await Experts.load({
        device,
        addon,
        file,
        plan,
        maxBatchTokens: most,
        vectors: () => ({ buffer: x }),
        buffers: (name) => ({ buffer: op?.op === 'experts' && name === op.in ? x : out }),
        options: { ...host, ...options },
        ...(slabBytes && { slabBytes }),
        cancel
      })
      return new Setting(device, made, { x, out, ids, weights, status, blocks })
    } finally {
      file.close()
    }
  }

  readonly #steps = new Map<number, Promise<ExpertStep>>()

  /** What the layers add, one after another, to the same states. */
  async run({ rows, ids, weights, x, out }: StepData): Promise<Float32Array[]> {
    const { device, buffers } = this
    const slice = (buffer: GPUBuffer, size: number) => ({ buffer, size })
    const slices = () => ({
      ids: slice(buffers.ids, rows * k * 4),
      weights: slice(buffers.weights, rows * k * 4),
      status: { buffer: buffers.status },
      blocks: { buffer: buffers.blocks }
    })
    const making = this.#steps.get(rows) ?? this.experts.prepare(rows, slices)
    this.#steps.set(rows, making)
    const step = await making
    this.experts.beginStep({ sequences: 1, rows, prefillRows: rows > 1 ? rows : 0 })
    const results: Float32Array[] = []
    const quantise = await device.bind(quantiseLaunch({ rows, columns: width }, device.facts), [
      { buffer: buffers.x },
      { buffer: buffers.blocks },
      { buffer: buffers.status }
    ])
    for (let layer = 0; layer < layers; layer++) {
      device.write(buffers.ids, 0, ids)
      device.write(buffers.weights, 0, weights)
      device.write(buffers.x, 0, x)
      device.write(buffers.out, 0, out)
      if (this.experts.quantises(layer)) device.submit((commands) => commands.run(quantise))
      const encode = this.experts.resident
        ? (commands: Parameters<ExpertStep['encode']>[0]) => step.encode(commands, layer)
        : await step.run(layer, ids, { cancel, ahead: this.experts.foresees(layer + 1) ? ids : undefined })
      device.submit(encode)
      results.push(new Float32Array(await device.read(slice(buffers.out, rows * width * 4))))
    }
    quantise.dispose()
    const [bad] = new Uint32Array(await device.read(slice(buffers.status, 4)))
    if (bad !== 0xffffffff) throw new Error(`row ${bad} is not finite`)
    return results
  }

  async close(): Promise<void> {
    for (const step of this.#steps.values()) (await step).dispose()
    await this.experts.dispose()
    for (const buffer of Object.values(this.buffers)) this.device.memory.free(buffer)
  }
}

const bits = (floats: Float32Array) => new Uint32Array(floats.buffer, floats.byteOffset, floats.length)

async function checkModel(t: Test, device: GpuDevice, name: string, options: MoeModelOptions): Promise<void> {
  const model = moeModel({ layers, experts, expertsUsed: k, embedding: width, vocab: 260, ...options })
  const path = join(folder, `${name}.gguf`)
  writeFileSync(path, model.bytes)
  const steps = [1, 4, 12, 1, 2].map((rows, i) => stepData(10 * i + 1, rows))
  const before = device.memory.usedBytes

  const whole = await Setting.open(device, path, {})
  t.ok(whole.experts.resident)
  t.same([whole.experts.stats(), whole.experts.trace(), whole.experts.whereabouts()], [undefined, undefined, undefined])
  const expected: Float32Array[][] = []
  for (const step of steps) {
    const results = await whole.run(step)
    expected.push(results)
    for (const [layer, got] of results.entries()) {
      const cpu = byCpu(model, layer, step)
      const scale = Math.max(...cpu.map(Math.abs))
      const worst = Math.max(...got.map((value, i) => Math.abs(value - cpu[i]!)))
      t.ok(worst <= 2e-3 * scale, `${step.rows} rows, layer ${layer}: within ${worst / scale} of the CPU's`)
    }
  }
  await whole.close()

  for (const [count, perSlab, prefetch] of [
    [16, 3, 'off'],
    [9, 4, 'on'],
    [4, 4, 'auto'],
    [2, 1, 'off']
  ] as const) {
    const slot = await slotBytes(path)
    const setting = await Setting.open(
      device,
      path,
      { gpuBudgetBytes: count * slot, traceWords: 1e5, prefetch },
      perSlab * slot
    )
    t.notOk(setting.experts.resident)
    for (const [i, step] of steps.entries()) {
      const results = await setting.run(step)
      t.same(results.map(bits), expected[i]!.map(bits), `${count} slots, ${step.rows} rows: the bits of all resident`)
    }
    const stats = setting.experts.stats()!
    const trace = setting.experts.trace()!
    t.equal(trace.slots, count)
    const { policy, seed } = trace
    const simulated = await addon.simulateCache(trace, { slots: count, policy, seed, decisions: false })
    const { uses, hits, misses, evictions, prefetches, waves } = stats
    t.match(simulated, { uses, hits, misses, evictions, prefetches, waves }, `${count} slots: the simulator's counts`)
    t.ok(count === 16 || evictions > 0)
    t.ok(count > 4 || waves > steps.length * layers, 'several waves')
    t.equal(stats.uploads, misses + prefetches)
    if (prefetch === 'on') t.ok(stats.layers[1]!.prefetches > 0, 'some were brought ahead')
    await setting.close()
  }
  device.memory.trim()
  t.equal(device.memory.usedBytes, before, 'nothing is left')
}

async function slotBytes(path: string): Promise<number> {
  const file = await addon.openGguf(path)
  const reader = await addon.openExperts(file, readModel(file).plan, { experts: host })
  file.close()
  await reader.dispose()
  return reader.slotBytes
}

if (await openGpu(t)) {
  const device = await GpuDevice.open(onNode)
  t.teardown(() => device.dispose())
  const models: [string, MoeModelOptions][] = [
    ['Q8_0', { type: 'Q8_0', feedForward: 64 }],
    ['Q4_0 with a down in F16', { type: 'Q4_0', feedForward: 48 }]
  ]
  for (const [name, options] of models) t.test(name, (t) => checkModel(t, device, name, options))
}

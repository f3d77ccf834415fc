/** Slots of experts on the GPU: where slabs are cut, what is written to them, and what a change of their number keeps. */
import { join } from 'node:path'
import t from 'tap'
import { isEngineError } from 'tiered-moe'
import { GpuDevice } from '../../lib/backends/webgpu/device.js'
import { Slabs, slotsPerSlab } from '../../lib/backends/webgpu/experts/slabs.js'
import { none, SlotTable } from '../../lib/backends/webgpu/experts/slot-table.js'
import { Transfer } from '../../lib/backends/webgpu/experts/transfer.js'
import type { DeviceLimits } from '../../lib/backends/webgpu/launches/launch.js'
import { nodeGpu } from '../../lib/backends/webgpu/node-provider.js'
import { readModel } from '../../lib/model/index.js'
import type { ExpertOptions } from '../../lib/native.js'
import { addon, smallModel } from '../checkpoint/checkpoints.js'
import { openGpu } from './adapter.js'

const [layers, experts] = [2, 8]
const folder = t.testdir({})
const source = smallModel(join(folder, 'small.gguf'), { experts, type: 'Q8_0' })
const options: ExpertOptions = {
  budgetBytes: 2 ** 30,
  kvReserveBytes: 0,
  policy: 'lru',
  ioThreads: 2,
  seed: 0,
  prefetch: 'off'
}
const cancel = addon.createCancel()

t.test('slots of a slab', (t) => {
  const limits = (binding: number, buffer: number) =>
    ({ maxStorageBufferBindingSize: binding, maxBufferSize: buffer }) as DeviceLimits
  t.equal(slotsPerSlab('a device', 4096, 64, limits(128 * 2 ** 20, 256 * 2 ** 20)), 32768)
  t.equal(slotsPerSlab('a device', 3 * 4096, 60, limits(2 ** 20, 2 ** 28)), 60, 'a whole layer')
  t.equal(slotsPerSlab('a device', 3 * 4096, 100, limits(2 ** 20, 2 ** 28)), 85, 'less than one')
  t.equal(slotsPerSlab('a device', 3 * 4096, 100, limits(2 ** 28, 2 ** 20)), 85, 'the smaller limit')
  try {
    slotsPerSlab('a device', 4096, 8, limits(4095, 8192))
    t.fail('there is no such slab')
  } catch (error) {
    t.ok(isEngineError(error))
    t.match(error, {
      code: 'GPU_LIMIT_EXCEEDED',
      details: { limit: 'maxStorageBufferBindingSize', required: 4096, available: 4095 }
    })
  }
  t.end()
})

const adapter = await openGpu(t)
if (adapter) {
  const shaders = () => ''
  const device = await GpuDevice.open({ provider: nodeGpu, shaders })
  t.teardown(() => device.dispose())

  t.test('experts in their slots, over a change of their number and when some cannot be read', async (t) => {
    const file = await addon.openGguf(source)
    const reader = await addon.openExperts(file, readModel(file).plan, { experts: options })
    file.close()
    const { slotBytes } = reader
    const slots = reader.createSlots({ slots: 7, policy: 'lru', prefetch: 'off', seed: 0, traceWords: 0 })
    const slabs = new Slabs(device, slotBytes, 3)
    await slabs.resize(7)
    t.match([slabs.count, slabs.bytes, slabs.slabOf(6)], [3, 7 * slotBytes, 2])
    t.equal(slabs.binding(2).buffer.size, slotBytes)
    const table = await SlotTable.make(device, layers, experts)
    const transfer = new Transfer({ reader, slots, table, slabs })

    const blobs = new Map<number, Buffer>()
    for (let layer = 0; layer < layers; layer++) {
      const all = Uint32Array.from({ length: experts }, (_, i) => i)
      for (let part = await reader.begin(layer, all, cancel); part; part = await reader.next(cancel)) {
        for (const [i, expert] of part.experts.entries())
          blobs.set(layer * experts + expert, Buffer.from(Buffer.from(part.blobs[i]!)))
      }
    }
    /** What the GPU has: the table, and in each slot that it names that expert. */
    const check = async (text: string) => {
      for (let layer = 0; layer < layers; layer++) table.show(layer)
      const expected = slots.table()
      for (let layer = 0; layer < layers; layer++) {
        const shown = new Uint32Array(await device.read(table.binding(layer)))
        t.same(shown, expected.subarray(layer * experts, (layer + 1) * experts), text)
      }
      for (const [entry, slot] of expected.entries()) {
        if (slot === none) continue
        const { buffer } = slabs.binding(slabs.slabOf(slot))
        const bytes = await device.read({ buffer, offset: (slot % 3) * slotBytes, size: slotBytes })
        t.ok(blobs.get(entry)!.equals(Buffer.from(bytes)), `${text}: entry ${entry} in slot ${slot}`)
      }
    }
    const filled = slots.fill()
    table.apply(filled)
    const reports: number[] = []
    await transfer.fill(filled, cancel, (done) => reports.push(done))
    t.equal(reports.at(-1), 7)
    t.equal(table.held, 7)
    await check('filled')

    const [part] = slots.beginLayer(1, Int32Array.of(6, 7, 6, 0))
    table.apply(part!)
    await transfer.bring(part!, cancel)
    t.equal(slots.advance(), undefined)
    slots.endLayer()
    await check('demanded')
    t.match([transfer.uploads, transfer.uploadedBytes], [9, 9 * slotBytes])

    const writes = table.writes
    await check('nothing has changed')
    t.equal(table.writes, writes, 'the table is written where it has changed')
    table.show(1, part!)
    const row = new Uint32Array(await device.read(table.binding(1)))
    t.same(
      [...row.keys()].filter((expert) => row[expert] !== none),
      [0, 6, 7],
      'a part alone'
    )

    table.clear(slots.resize(4))
    const beyond = table.beyond(4)
    slots.drop(Uint32Array.from(beyond))
    table.clear(beyond)
    const { generation } = slabs
    await slabs.resize(4)
    t.not(slabs.generation, generation)
    t.match([slabs.count, slabs.slots], [2, 4])
    await check('fewer slots')
    slots.resize(9)
    await slabs.resize(9)
    const more = slots.fill()
    table.apply(more)
    await transfer.bringAhead(more, cancel)
    t.equal(table.held, 9)
    await check('more slots')

    const stopped = addon.createCancel()
    stopped.cancel()
    await reader.setBudget(2 * slotBytes)
    const parts = slots.beginLayer(
      0,
      Int32Array.from({ length: experts }, (_, i) => i)
    )
    for (const one of parts) table.apply(one)
    const missing = parts.flatMap((one) => [...one].filter((_, i) => i % 4 === 2 && one[i] === 1)).length
    t.ok(missing > 2)
    await t.rejects(transfer.bring(parts[0]!, stopped), { code: 'CANCELLED' })
    transfer.abandon(parts.slice(1))
    slots.endLayer()
    t.ok(table.held < 9)
    await check('what did not come has no slot')

    await reader.dispose()
    table.dispose()
    slabs.dispose()
    device.memory.trim()
    t.equal(device.memory.usedBytes, 0)
  })

  t.test('more slots than there is memory', async (t) => {
    const small = await GpuDevice.open({ provider: nodeGpu, shaders, memoryBytes: 10 * 4096 })
    const slabs = new Slabs(small, 4096, 4)
    await slabs.resize(6)
    await t.rejects(slabs.resize(20), { code: 'GPU_VRAM_EXHAUSTED' })
    t.match([slabs.slots, slabs.count, small.memory.usedBytes], [6, 2, 6 * 4096], 'nothing has changed')
    small.dispose()
  })
}

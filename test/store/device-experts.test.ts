/** Experts for a device's memory, below TypeScript: bytes as the checkpoint has them, decisions that are the simulator's, and what goes wrong. */
import { readFileSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout } from 'node:timers/promises'
import t from 'tap'
import { convertModel } from 'tiered-moe'
import { readModel } from '../../lib/model/index.js'
import type { ExpertOptions, NativeExpertReader, NativeExpertSlots, SlotItems } from '../../lib/native.js'
import { addon, flip, openCheckpoint, smallModel } from '../checkpoint/checkpoints.js'
import { random } from '../fixtures/weights.js'

const [layers, experts] = [2, 8]
const folder = t.testdir({})
const source = smallModel(join(folder, 'small.gguf'), { experts, type: 'Q8_0' })
await convertModel({ from: source, to: join(folder, 'tiered') })
const cancel = addon.createCancel()
const none = 0xffffffff

const options: ExpertOptions = {
  budgetBytes: 2 ** 30,
  kvReserveBytes: 0,
  policy: 'adaptive',
  ioThreads: 2,
  seed: 7,
  prefetch: 'off'
}

async function openFile(changes: Partial<ExpertOptions> = {}): Promise<NativeExpertReader> {
  const file = await addon.openGguf(source)
  const { plan } = readModel(file)
  const reader = await addon.openExperts(file, plan, { experts: { ...options, ...changes } })
  file.close()
  return reader
}

async function openFolder(path: string, changes: Partial<ExpertOptions> = {}) {
  const { base, description, blobs } = await openCheckpoint(addon, path, {})
  const reader = await addon.openExperts(base, description.plan, { experts: { ...options, ...changes, blobs } })
  base.close()
  return { reader, blobs }
}

/** Copies of the blobs of these experts, in their order. */
async function read(reader: NativeExpertReader, layer: number, ids: number[]): Promise<Buffer[]> {
  const found = new Map<number, Buffer>()
  let part = await reader.begin(layer, Uint32Array.from(ids), cancel, { sequences: 1, rows: 1, prefillRows: 0 })
  for (; part; part = await reader.next(cancel)) {
    for (const [i, expert] of part.experts.entries()) found.set(expert, Buffer.from(Buffer.from(part.blobs[i]!)))
  }
  return ids.map((id) => found.get(id)!)
}

t.test('the bytes of a file and of a checkpoint are the same, whatever fits in host memory', async (t) => {
  const { reader: whole, blobs } = await openFolder(join(folder, 'tiered'))
  const { slotBytes, layouts } = whole
  t.equal(layouts.length, layers)
  t.equal(slotBytes, Math.max(...layouts.map(({ bytes }) => bytes)))
  const narrow = await openFile({ budgetBytes: 2 * slotBytes })
  const all = Array.from({ length: experts }, (_, i) => i)
  for (let layer = 0; layer < layers; layer++) {
    const expected = all.map((expert) => {
      const at = layer * experts + expert
      const bytes = readFileSync(blobs.files[blobs.fileIndex[at]!]!)
      return bytes.subarray(blobs.offset[at]!, blobs.offset[at]! + layouts[layer]!.bytes)
    })
    t.same(await read(whole, layer, all), expected)
    t.same(await read(narrow, layer, all), expected, 'two at a time')
  }
  const wide = whole.stats()
  t.match(wide, { uses: 16, misses: 16, evictions: 0 })
  await read(whole, 0, [1, 5])
  t.match(whole.stats(), { uses: 18, misses: 16, hits: 2 })
  t.match(narrow.stats(), { uses: 16, misses: 16, evictions: 14, budgetBytes: 2 * slotBytes })
  t.equal(whole.residency().filter((bits) => (bits & 3) === 2).length, 16)
  t.equal(narrow.residency().filter((bits) => (bits & 3) === 2).length, 2)
  await narrow.prefetch(0, Uint32Array.of(3))
  await narrow.setBudget(4 * slotBytes)
  t.equal(narrow.stats().budgetBytes, 4 * slotBytes)
  await whole.dispose()
  await narrow.dispose()
  t.throws(() => narrow.stats(), { code: 'MODEL_NOT_LOADED' })
})

t.test('a blob is lent until the next call', async (t) => {
  const reader = await openFile()
  const first = await reader.begin(0, Uint32Array.of(0, 1), cancel)
  const [blob] = first!.blobs
  t.equal(blob!.byteLength, reader.layouts[0]!.bytes)
  const second = reader.begin(1, Uint32Array.of(0), cancel)
  t.equal(blob!.byteLength, 0, 'taken back')
  const overtaken = reader.next(cancel)
  await t.rejects(second, { code: 'RUNTIME_INVARIANT_VIOLATED' }, 'two calls at once')
  await overtaken
  await t.rejects(reader.begin(0, Uint32Array.of(1, 1), cancel), { code: 'VALIDATION_ERROR' })
  await t.rejects(reader.begin(layers, Uint32Array.of(1), cancel), { code: 'VALIDATION_ERROR' })
  await t.rejects(reader.begin(0, Uint32Array.of(experts), cancel), { code: 'RUNTIME_INVARIANT_VIOLATED' })
  const stop = addon.createCancel()
  const small = await openFile({ budgetBytes: 2 * reader.slotBytes })
  stop.cancel()
  await small.begin(0, Uint32Array.of(0, 1, 2, 3), stop).then(
    async (part) => {
      while (part) part = await small.next(stop)
      t.fail('a cancelled read has an end')
    },
    (error) => t.equal(error.code, 'CANCELLED')
  )
  t.equal((await read(small, 0, [2])).length, 1, 'and the next one goes on')
  const kept = (await reader.begin(0, Uint32Array.of(4), cancel))!.blobs[0]!
  await reader.dispose()
  t.equal(kept.byteLength, 0)
  await small.dispose()
})

/** Routes as a model's, some experts more often; what the slots were asked is what the trace says. */
function use(slots: NativeExpertSlots, steps: number, rows: number, seed: number) {
  const next = random(seed)
  const held = slots.table()
  const check = (items: SlotItems): void => {
    for (let at = 0; at < items.length; at += 4) {
      const [entry, slot, admitted, evicted] = items.subarray(at, at + 4) as unknown as [number, number, number, number]
      if (evicted !== none) {
        if (held[evicted] !== slot && admitted === 0) throw new Error('an expert lost a slot that it did not have')
        held[evicted] = none
      }
      if (admitted) held[entry] = slot
      else if (held[entry] !== slot) throw new Error('an expert is in another slot')
    }
  }
  for (let step = 0; step < steps; step++) {
    slots.beginStep({ sequences: 1, rows, prefillRows: rows > 1 ? rows : 0 })
    for (let layer = 0; layer < layers; layer++) {
      const ids = Int32Array.from({ length: 2 * rows }, () => Math.floor(next() ** 2 * experts))
      const parts = slots.beginLayer(layer, ids)
      const seen = new Set<number>()
      for (let part = parts.shift(); part; part = parts.shift()) {
        check(part)
        for (let at = 0; at < part.length; at += 4) seen.add(part[at]! % experts)
        if (step % 3 === 0) check(slots.prefetch((layer + 1) % layers, Uint32Array.of(Math.floor(next() * experts))))
        const more = slots.advance()
        if (more) parts.push(more)
      }
      slots.endLayer()
      if (seen.size !== new Set(ids).size) throw new Error('not every expert was handed out')
    }
  }
  return held
}

t.test('the decisions are the simulator’s', async (t) => {
  const reader = await openFile()
  for (const policy of ['adaptive', 'lru', 'lfu'] as const) {
    for (const [count, rows] of [
      [2, 1],
      [4, 1],
      [5, 6],
      [16, 2],
      [40, 4]
    ] as const) {
      const slots = reader.createSlots({ slots: count, policy, prefetch: 'off', seed: 3, traceWords: 1e6 })
      for (const items of [slots.fill(), slots.place(new Uint8Array(layers * experts).fill(2, 0, 3))])
        t.ok(items.length <= 4 * Math.min(count, 16))
      const held = use(slots, 60, rows, count)
      t.same(slots.table(), held, 'the table is what the items said')
      slots.resize(Math.max(2, count - 1))
      use(slots, 20, rows, 99)
      const trace = slots.trace()!
      const simulated = await addon.simulateCache(trace, { slots: trace.slots, policy, seed: 3, decisions: false })
      const { slots: _, used: __, layers: perLayer, ...counts } = slots.counts()
      t.match(simulated, counts, `${policy}, ${count} slots`)
      t.match(perLayer, simulated.layers)
      t.ok(counts.uses > 100 && (count >= 16 || counts.evictions > 0))
    }
  }
  await reader.dispose()
})

t.test('what is foretold is brought ahead as long as it comes true', async (t) => {
  const reader = await openFile()
  const next = random(11)
  /** Experts that are brought ahead in steps of which so many predictions are right. */
  const play = (slots: NativeExpertSlots, steps: number, right: number) => {
    let brought = 0
    for (let step = 0; step < steps; step++) {
      slots.beginStep({ sequences: 1, rows: 1, prefillRows: 0 })
      for (let layer = 0; layer < layers; layer++) {
        const ids = Int32Array.of(Math.floor(next() * experts), Math.floor(next() * experts))
        const wrong = Int32Array.from(ids, (id) => (id + 3) % experts)
        brought += slots.foresee(layer, next() < right ? ids : wrong).length / 4
        slots.beginLayer(layer, ids)
        while (slots.advance());
        slots.endLayer()
      }
    }
    return brought
  }
  const make = (prefetch: 'off' | 'on' | 'auto') =>
    reader.createSlots({ slots: 8, policy: 'lru', prefetch, seed: 0, traceWords: 1e6 })
  const [off, on, auto] = [make('off'), make('on'), make('auto')]
  t.equal(play(off, 50, 1), 0)
  t.notOk(off.foresees(0))
  t.ok(play(on, 50, 0) > 20, 'whatever comes of it')
  const good = play(auto, 100, 1)
  t.ok(good > 40)
  const [first] = auto.counts().layers
  t.equal(first!.predicted, first!.predictable)
  t.ok(first!.present > first!.predicted * 0.9, 'there when it is demanded')
  t.ok(first!.asked > 20)
  play(auto, 100, 0)
  t.notOk(auto.counts().layers.some(({ prefetching }) => prefetching))
  t.ok(play(auto, 100, 0) < good / 4, 'guesses that fail are given up')
  play(auto, 300, 1)
  t.ok(play(auto, 100, 1) > good / 2, 'and are tried again now and then')
  for (const slots of [on, auto]) {
    const trace = slots.trace()!
    const simulated = await addon.simulateCache(trace, { slots: 8, policy: 'lru', seed: 0, decisions: false })
    const { hits, misses, prefetches, evictions } = slots.counts()
    t.match(simulated, { hits, misses, prefetches, evictions })
  }
  await reader.dispose()
})

t.test('budgets, pins and ids that cannot be', async (t) => {
  const reader = await openFile()
  const make = (slots: number) => reader.createSlots({ slots, policy: 'lru', prefetch: 'off', seed: 0, traceWords: 0 })
  t.throws(() => make(1), { code: 'RESOURCE_BUDGET_TOO_SMALL', details: { required: 2 * reader.slotBytes } })
  const slots = make(4)
  t.equal(slots.trace(), undefined)
  t.throws(() => slots.beginLayer(0, Int32Array.of(experts)), { code: 'RUNTIME_INVARIANT_VIOLATED' })
  t.throws(() => slots.beginLayer(0, Int32Array.of(-1)), { code: 'RUNTIME_INVARIANT_VIOLATED' })
  t.throws(() => slots.drop(Uint32Array.of(layers * experts)), { code: 'VALIDATION_ERROR' })
  const map = new Uint8Array(layers * experts).fill(1, 0, 3)
  t.throws(() => slots.place(map), { code: 'RESOURCE_BUDGET_TOO_SMALL' })
  map.fill(0, 2)
  t.equal(slots.place(map).length, 0, 'what had its slot from before is there already')
  t.throws(() => slots.resize(3), { code: 'RESOURCE_BUDGET_TOO_SMALL' })
  slots.beginLayer(0, Int32Array.of(0, 1, 2, 3, 4, 5, 6, 7))
  for (let part = slots.advance(); part; part = slots.advance());
  slots.endLayer()
  const [first, second] = slots.table()
  t.ok(first !== none && second !== none, 'pinned experts stay')
  slots.drop(Uint32Array.of(0))
  t.equal(slots.table()[0], none)
  await reader.dispose()
})

t.test('what is waited for is neither hit nor miss, and what was read for nothing is told per layer', async (t) => {
  const to = join(folder, 'waited')
  await convertModel({ from: source, to })
  const { reader, blobs } = await openFolder(to)
  const { slotBytes } = reader
  await reader.setBudget(4 * slotBytes)
  const until = async (layer: number, expert: number, state: number) => {
    while ((reader.residency()[layer * experts + expert]! & 3) !== state) await setTimeout(1)
  }
  await reader.prefetch(1, Uint32Array.of(0, 1))
  for (const expert of [0, 1]) await until(1, expert, 2)
  await read(reader, 0, [0, 1, 2, 3, 4, 5, 6, 7])
  const bytes = reader.stats().prefetchWastedBytes
  t.ok(bytes > slotBytes && bytes <= 2 * slotBytes)
  t.same(reader.wastedBytes(), [0, bytes], 'experts of the second layer made room unused')
  await read(reader, 0, [0])
  const at = blobs.offset[experts + 2]! + 100
  const file = blobs.files[blobs.fileIndex[experts + 2]!]!
  flip(file, at)
  await reader.prefetch(1, Uint32Array.of(2))
  await until(1, 2, 3)
  flip(file, at)
  const before = reader.stats()
  await read(reader, 1, [2])
  const { uses, hits, late, misses } = reader.stats()
  t.same([uses - before.uses, hits, late, misses], [1, before.hits, before.late + 1, before.misses])
  await read(reader, 1, [2])
  t.equal(reader.stats().hits, hits + 1, 'now it is in memory')
  await reader.dispose()
})

t.test('a damaged blob and one that is cut off', async (t) => {
  const to = join(folder, 'damaged')
  await convertModel({ from: source, to })
  const { reader, blobs } = await openFolder(to, { budgetBytes: 8 * 2 ** 20 })
  const [bad, gone] = [blobs.offset[2]!, blobs.offset[layers * experts - 1]!]
  flip(blobs.files[blobs.fileIndex[2]!]!, bad + 100)
  await t.rejects(read(reader, 0, [1, 2]), { code: 'EXPERT_CORRUPTED', details: { layer: 0, expert: 2 } })
  t.equal((await read(reader, 0, [0, 1])).length, 2, 'the others are read')
  truncateSync(blobs.files[blobs.fileIndex[layers * experts - 1]!]!, gone + 4096)
  await t.rejects(read(reader, 1, [experts - 1]), { code: 'EXPERT_UNAVAILABLE', details: { layer: 1 } })
  t.ok(reader.stats().readErrors >= 2)
  flip(blobs.files[blobs.fileIndex[2]!]!, bad + 100)
  t.equal((await read(reader, 0, [2])).length, 1, 'mended, it is read again')
  await reader.dispose()
  t.equal(addon.counters().openFiles, 0)
})

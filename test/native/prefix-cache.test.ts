/** The prefix cache under the addon's own surface: hostile arguments, and sequences that do with it whatever they can. */
import { join } from 'node:path'
import t from 'tap'
import type { readModel as ReadModel } from '../../lib/model/index.js'
import type { native as Native, NativeModel, NativeSequence, PrefixScope, StepItem } from '../../lib/native.js'
import { writeMoeModel } from '../fixtures/moe-model.js'
import { built } from '../fixtures/package.js'
import { random } from '../fixtures/weights.js'
import { besiege, outcome, report } from './hostile.js'

const { native } = (await built('native.js')) as { native: typeof Native }
const { readModel } = (await built('model/index.js')) as { readModel: typeof ReadModel }

const addon = native()
const cancel = addon.createCancel()
const [page, vocab] = [64, 260]
const path = writeMoeModel(join(t.testdir({}), 'small.gguf'), { type: 'Q8_0', layers: 1, experts: 4, vocab })

/** Loads models, and closes everything that it made. */
async function open() {
  const before = addon.counters()
  const file = await addon.openGguf(path)
  const backend = addon.createBackend({ threads: 2, isa: 'auto' })
  const { plan } = readModel(file)
  const models: NativeModel[] = []
  const load = async (prefixCacheBytes: number): Promise<NativeModel> => {
    const model = await backend.loadModel(file, plan, { maxBatchTokens: 256, prefixCacheBytes }, cancel)
    models.push(model)
    return model
  }
  const close = async (): Promise<void> => {
    for (const model of models) await model.dispose()
    backend.dispose()
    file.close()
  }
  return { before, load, close }
}

t.test('what it may be asked', async (t) => {
  const { before, load, close } = await open()
  report(t, 'loadModel', await besiege([1], async ([bytes]) => (await load(bytes as number)).dispose()))
  const model = await load(2 ** 20)
  const scope = { salt: 's', epoch: 0, enabled: new Uint8Array(4).fill(1) }
  const made: NativeSequence[] = []
  const create = (prefix: PrefixScope) => {
    const sequence = model.createSequence({ kvType: 'f16', maxTokens: 200, prefix })
    made.push(sequence)
    return sequence
  }
  report(t, 'createSequence', await besiege([scope], ([prefix]) => create(prefix as PrefixScope).dispose()))
  report(t, 'evictPrefixes', await besiege([1], ([bytes]) => model.evictPrefixes!(bytes as number)))

  const tokens = Int32Array.from({ length: 200 }, (_, i) => (i * 7) % 250)
  const feed = async (sequence: NativeSequence, count: number, fields: Partial<StepItem> = {}) => {
    const { length } = sequence
    const logitsOut = new Float32Array(260)
    const own = { enabled: scope.enabled, ...fields }
    const part = tokens.subarray(length, length + count)
    await model.step([{ sequence, tokens: part, logits: 'last', logitsOut, ...own }], cancel)
    return Buffer.from(logitsOut.buffer)
  }
  const first = create(scope)
  for (const count of [64, 64, 2]) await feed(first, count)
  const expected = await feed(first, 1)
  const other = create(scope)
  report(t, 'reuse', await besiege([new Int32Array(63)], ([list]) => other.reuse!(list as Int32Array)))
  await feed(other, 3)
  t.equal(other.reuse!(tokens.slice(1)), 3, 'not what it holds')
  t.equal(other.reuse!(tokens.slice(0, 2)), 3, 'less than it holds')
  const running = feed(other, 1)
  t.equal(await outcome(() => other.reuse!(tokens)), 'VALIDATION_ERROR', 'a step is under way')
  await running
  t.equal(other.reuse!(tokens), 128, "the first one's pages in the place of its own")
  await feed(other, 2)
  t.ok((await feed(other, 1)).equals(expected))

  // One that is truncated writes to pages of its own.
  other.truncate(100)
  const foreign = tokens.map((token) => token ^ 1)
  await model.step(
    [{ sequence: other, tokens: foreign.slice(100, 140), logits: 'none', enabled: scope.enabled }],
    cancel
  )
  t.equal(other.reuse!(foreign), 140, 'it takes no part any more')
  const third = create(scope)
  t.equal(third.reuse!(tokens), 128)
  await feed(third, 2)
  t.ok((await feed(third, 1)).equals(expected), 'what is shared is as it was')

  // A step that computes something else than the sequence was made for leaves nothing, nor what was there before weights changed.
  for (const fields of [{ epoch: 1 }, { enabled: Uint8Array.of(1, 1, 0, 1) }]) {
    const wrong = create({ ...scope, salt: 'wrong' })
    await feed(wrong, 64, fields)
    t.equal(create({ ...scope, salt: 'wrong' }).reuse!(tokens), 0)
  }
  const loaded = [{ layer: 0, expert: 0, versions: [{ epoch: 0 }] }]
  await model.placeVersions(loaded)
  t.match(model.prefixStats!(), { bytes: 0, idleBytes: 0 })
  t.equal(create(scope).reuse!(tokens), 0)
  first.truncate(64)
  await feed(third, 64)
  t.match(model.prefixStats!(), { bytes: 0 }, 'of one that began before')
  await close()
  t.equal(third.reuse!(tokens), 195, 'the model has gone')
  for (const sequence of made) sequence.dispose()
  t.same(addon.counters(), before)
})

t.test('one that is truncated keeps its pages, and those before them, until it ends', async (t) => {
  const { before, load, close } = await open()
  const model = await load(2 ** 20)
  const bytes = page * model.kvBytesPerToken.f16
  const create = () => model.createSequence({ kvType: 'f16', maxTokens: 300, prefix: { salt: '', epoch: 0 } })
  const tokens = Int32Array.from({ length: 200 }, (_, i) => (i * 7) % 250)
  const first = create()
  await model.step([{ sequence: first, tokens: tokens.subarray(0, 192), logits: 'none' }], cancel)
  first.truncate(100)
  // It has a page of its own in the place of the second one now, and still the third.
  await model.step([{ sequence: first, tokens: tokens.subarray(100, 120), logits: 'none' }], cancel)
  t.equal(model.evictPrefixes!(bytes), 0)
  t.match(model.prefixStats!(), { bytes: 3 * bytes, idleBytes: 0 })
  const second = create()
  t.equal(second.reuse!(tokens), 192)
  first.dispose()
  t.equal(model.evictPrefixes!(1), 0, 'the other one has them')
  second.dispose()
  t.match(model.prefixStats!(), { bytes: 3 * bytes, idleBytes: 3 * bytes })
  t.equal(model.evictPrefixes!(bytes + 1), 2 * bytes)
  const third = create()
  t.equal(third.reuse!(tokens), page, 'the first is left')
  third.dispose()
  await close()
  t.same(addon.counters(), before)
})

t.test('whatever sequences do, their logits are those of sequences that share nothing', async (t) => {
  const { before, load, close } = await open()
  const model = await load(0)
  const [kvType, length] = ['f16', 260] as const
  const draw = random(7)
  const below = (n: number) => Math.floor(draw() * n)
  // Texts that part at the borders of pages and beside them.
  const texts: Int32Array[] = [Int32Array.from({ length }, () => below(vocab))]
  for (const at of [1, 63, 64, 65, 128, 150, 192, 256]) {
    const own = texts[below(texts.length)]!.slice()
    own.set(
      Int32Array.from({ length: length - at }, () => below(vocab)),
      at
    )
    texts.push(own)
  }
  const logits = new Map<Int32Array, Buffer>()
  for (const tokens of texts) {
    const sequence = model.createSequence({ kvType, maxTokens: length })
    const all = Buffer.alloc(length * vocab * 4)
    for (let at = 0; at < length; at += 130) {
      const logitsOut = new Float32Array(all.buffer, all.byteOffset + at * vocab * 4, 130 * vocab)
      await model.step([{ sequence, tokens: tokens.subarray(at, at + 130), logits: 'all', logitsOut }], cancel)
    }
    sequence.dispose()
    logits.set(tokens, all)
  }
  const most = 9 * page * model.kvBytesPerToken[kvType]
  const cached = await load(most)
  const running: { sequence: NativeSequence; tokens: Int32Array }[] = []
  const [wrong, done]: [string[], Record<string, number>] = [[], { reused: 0, steps: 0, truncated: 0, evicted: 0 }]
  for (let turn = 0; turn < 1500; turn++) {
    const kind = draw()
    if (running.length < 6 && kind < 0.3) {
      const prefix = { salt: draw() < 0.9 ? '' : 'other', epoch: 0 }
      const sequence = cached.createSequence({ kvType, maxTokens: length, prefix })
      running.push({ sequence, tokens: texts[below(texts.length)]! })
    } else if (kind < 0.4 && running.length > 0) {
      running.splice(below(running.length), 1)[0]!.sequence.dispose()
    } else if (kind < 0.43 && running.length > 0) {
      const one = running[below(running.length)]!
      one.sequence.truncate(below(length))
      // It may go on with another text that begins with what is left.
      const left = one.tokens.subarray(0, one.sequence.length)
      const others = texts.filter((text) => left.every((token, i) => token === text[i]))
      one.tokens = others[below(others.length)]!
      done.truncated!++
    } else if (kind < 0.47) {
      done.evicted! += cached.evictPrefixes!(below(most))
    } else if (kind < 0.48) {
      await cached.placeVersions([{ layer: 0, expert: 0, versions: [{ epoch: 0 }] }])
    }
    const members = running.filter(({ sequence }) => sequence.length < length && draw() < 0.6)
    const items = members.map(({ sequence, tokens }): StepItem => {
      const { length: held } = sequence
      if (draw() < 0.8) done.reused! += sequence.reuse!(tokens.subarray(0, -1)) - held
      const at = sequence.length
      const part = tokens.subarray(at, at + 1 + below(draw() < 0.5 ? 3 : 40))
      return { sequence, tokens: part, logits: 'last', logitsOut: new Float32Array(vocab) }
    })
    if (items.length > 0) await cached.step(items, cancel)
    for (const [i, { sequence, tokens }] of members.entries()) {
      const at = (sequence.length - 1) * vocab * 4
      const expected = logits.get(tokens)!.subarray(at, at + vocab * 4)
      if (!Buffer.from(items[i]!.logitsOut!.buffer).equals(expected)) wrong.push(`turn ${turn}, item ${i}`)
      done.steps!++
    }
    const { bytes, idleBytes } = cached.prefixStats!()!
    if (bytes > most || idleBytes > bytes) wrong.push(`turn ${turn}: ${idleBytes} of ${bytes}`)
  }
  t.same(wrong, [])
  const { hits, evictions } = cached.prefixStats!()!
  const counts = { hits, evictions, ...done }
  t.ok(
    Object.values(counts).every((count) => count > 20),
    JSON.stringify(counts)
  )
  for (const { sequence } of running) sequence.dispose()
  const { bytes, idleBytes } = cached.prefixStats!()!
  t.equal(idleBytes, bytes)
  t.equal(cached.evictPrefixes!(most), bytes)
  t.match(cached.prefixStats!()!, { bytes: 0, idleBytes: 0 })
  await close()
  t.same(addon.counters(), before)
})

/** Routes captured, replayed and masked, on the embedded model. */
import { join } from 'node:path'
import t from 'tap'
import { convertModel, createEngine, type Engine, type RoutingCapture } from 'tiered-moe'
import type { readModel as ReadModel } from '../../lib/model/index.js'
import type { native as Native, NativeModel, StepItem } from '../../lib/native.js'
import { writeMoeModel } from '../fixtures/moe-model.js'
import { built, embedded } from '../fixtures/package.js'

// Steps with masks are below the package's surface: they are reached by their place.
const { native } = (await built('native.js')) as { native: typeof Native }
const { readModel } = (await built('model/index.js')) as { readModel: typeof ReadModel }

const model = 'tiny-shakespeare'
const tokens = Int32Array.from({ length: 75 }, (_, i) => (i * 37 + 11) % 200)
const bytes = (array: Float32Array | Int32Array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength)

let engine: Engine
let other: Engine
t.before(async () => {
  engine = await createEngine({ threads: 2, maxBatchTokens: 64 })
  other = await createEngine({ threads: 1, maxBatchTokens: 13, isa: 'scalar' })
  await Promise.all([engine.loadModel(), other.loadModel()])
})
t.teardown(() => Promise.all([engine.dispose(), other.dispose()]))

const forward = (on: Engine, replayRouting?: RoutingCapture) =>
  on.forward({ model, tokens, logits: 'all', captureRouting: true, ...(replayRouting && { replayRouting }) })

t.test('a capture has the experts of every token and layer', async (t) => {
  const { logits, routing } = await forward(engine)
  const { experts, expertsUsed: k, layers } = engine.listModels()[0]!.descriptor
  t.match(routing, { tokens: tokens.length, layers, k })
  t.equal(routing.ids.length, tokens.length * layers * k)
  t.equal(routing.weights.length, routing.ids.length)
  for (let at = 0; at < routing.ids.length; at += k) {
    const ids = routing.ids.subarray(at, at + k)
    if (new Set(ids).size !== k || ids.some((id) => id < 0 || id >= experts)) t.fail(`the route at ${at} is ${ids}`)
    const weights = routing.weights.subarray(at, at + k)
    if (weights.some((weight, i) => !(weight > 0 && weight <= (weights[i - 1] ?? 1)))) t.fail(`weights ${weights}`)
  }
  t.ok(bytes(logits).equals(bytes(await engine.forward({ model, tokens, logits: 'all' }))), 'and changes no bit')
})

t.test('a replay gives the same logits with other threads, batches and instructions', async (t) => {
  const first = await forward(engine)
  const again = await forward(other, first.routing)
  t.ok(bytes(again.logits).equals(bytes(first.logits)))
  t.ok(bytes(again.routing.ids).equals(bytes(first.routing.ids)))
  t.ok(bytes(again.routing.weights).equals(bytes(first.routing.weights)))
})

t.test('a replay forces what it holds, and routes the rest', async (t) => {
  const plain = await forward(engine)
  const { layers, k } = plain.routing
  const { experts } = engine.listModels()[0]!.descriptor
  const choices = layers * k
  const held = 40
  const changed: RoutingCapture = {
    ...plain.routing,
    tokens: held,
    ids: plain.routing.ids.slice(0, held * choices).map((id) => (id + 1) % experts),
    weights: plain.routing.weights.slice(0, held * choices)
  }
  const forced = await forward(engine, changed)
  t.notOk(bytes(forced.logits).equals(bytes(plain.logits)))
  t.same(forced.routing.ids.slice(0, held * choices), changed.ids)
  const again = await forward(other, forced.routing)
  t.ok(bytes(again.logits).equals(bytes(forced.logits)), 'its own capture gives its logits')
})

t.test('generation: the first token brings the routes of the prompt', async (t) => {
  const request = { model, prompt: 'ROMEO: '.repeat(20), maxTokens: 25, seed: 3, captureRouting: true, logits: true }
  const items = []
  const atOnce = []
  for await (const item of engine.createGenerator(request)) {
    // Every other one is looked at when the generation is over only.
    if (items.length % 2) atOnce.push({ ...item }.routing!)
    items.push(item)
  }
  t.same(
    atOnce,
    items.filter((_, i) => i % 2).map(({ routing }) => routing)
  )
  const prompt = items.at(-1)!.usage!.promptTokens
  t.same(
    items.map(({ routing }) => routing?.tokens),
    [prompt, ...Array(24).fill(1), undefined]
  )
  const { text, routing, usage } = await engine.generate(request)
  t.equal(routing!.tokens, prompt + usage.completionTokens - 1)
  t.same(
    routing!.ids,
    items.flatMap(({ routing }) => Array.from(routing?.ids ?? []))
  )

  const { captureRouting, ...plain } = request
  t.notHas((await engine.generate(plain)) as object, { routing: {} })
  const replayed = []
  for await (const item of other.createGenerator({ ...plain, replayRouting: routing! })) replayed.push(item)
  t.equal(replayed.map(({ text }) => text).join(''), text)
  t.same(
    replayed.map(({ logits }) => logits && bytes(logits).toString('hex')),
    items.map(({ logits }) => logits && bytes(logits).toString('hex'))
  )
})

t.test('a hierarchical model: replayed from another place, on other threads, without the TierSet', async (t) => {
  const folder = t.testdir()
  const hser = { tiers: { hot: [3, 2], warm: [4, 2], cold: [5] }, k: [2, 1, 2] as [number, number, number] }
  const path = writeMoeModel(join(folder, 'hser.gguf'), {
    hser,
    type: 'Q8_0',
    layers: 3,
    embedding: 64,
    feedForward: 64
  })
  const checkpoint = join(folder, 'hser.checkpoint')
  await convertModel({ from: path, to: checkpoint })
  const text = Int32Array.from({ length: 50 }, (_, i) => (i * 53 + 3) % 270)
  await engine.loadModel({ model: path, id: 'whole' })
  const { base, keyValues, arena, experts } = engine.listModels().find(({ id }) => id === 'whole')!.memory
  const memory = base + keyValues + arena + 20.5 * experts.slot
  await other.loadModel({ model: checkpoint, id: 'part', memory, contextLength: 64 })
  for (const tierSet of ['max', 'balanced', ['warm', 'cold']]) {
    const forward = { tokens: text, logits: 'all', captureRouting: true } as const
    const first = await engine.forward({ ...forward, model: 'whole', tierSet })
    const again = await other.forward({ ...forward, model: 'part', replayRouting: first.routing })
    t.ok(bytes(again.logits).equals(bytes(first.logits)), String(tierSet))
    t.ok(bytes(again.routing.ids).equals(bytes(first.routing.ids)))
    t.ok(bytes(again.routing.weights).equals(bytes(first.routing.weights)))

    const request = { prompt: 'the tree', maxTokens: 20, seed: 5, ignoreEos: true }
    const { routing, tokens } = await engine.generate({ ...request, model: 'whole', tierSet, captureRouting: true })
    const replayed = await other.generate({ ...request, model: 'part', replayRouting: routing! })
    t.same(replayed.tokens, tokens)
  }
  const { misses, budgetBytes, residentBytes } = other.modelStats('part').experts!
  t.ok(misses > 20 && residentBytes <= budgetBytes, 'where few of the experts had room')
})

t.test('a replay that does not fit is refused', async (t) => {
  const { routing } = await forward(engine)
  const { layers, k } = routing
  const bad = { ...routing, ids: routing.ids.slice() }
  bad.ids[(7 * layers + 1) * k + 1] = 99
  await t.rejects(forward(engine, bad), {
    code: 'ROUTING_INVALID_EXPERT',
    details: { token: 7, slot: 1, expertId: 99, layer: 1 }
  })
  bad.ids[(7 * layers + 1) * k + 1] = bad.ids[(7 * layers + 1) * k]!
  await t.rejects(forward(engine, bad), { code: 'ROUTING_INVALID_EXPERT' })
  await t.rejects(engine.generate({ model, promptTokens: tokens, replayRouting: bad }), {
    code: 'ROUTING_INVALID_EXPERT'
  })
  for (const wrong of [
    { ...routing, layers: layers + 1 },
    { ...routing, tokens: routing.tokens + 1 },
    { ...routing, weights: routing.weights.slice(1) },
    { ...routing, ids: Array.from(routing.ids) },
    {}
  ]) {
    const request = { model, tokens, replayRouting: wrong as RoutingCapture }
    await t.rejects(engine.forward(request), { code: 'VALIDATION_ERROR', details: { path: 'replayRouting' } })
  }
  const fine = await forward(engine)
  t.ok(bytes(fine.routing.ids).equals(bytes(routing.ids)), 'and the model goes on')
})

t.test('masks of one step', async (t) => {
  const addon = native()
  const file = await addon.openGguf(embedded)
  const backend = addon.createBackend({ threads: 2, isa: 'auto' })
  const cancel = addon.createCancel()
  const { plan } = readModel(file)
  const loaded: NativeModel = await backend.loadModel(file, plan, { maxBatchTokens: 256 }, cancel)
  file.close()
  t.teardown(async () => {
    await loaded.dispose()
    backend.dispose()
  })
  const { layers, experts, k } = loaded.routing

  /** Runs all items in one step of fresh sequences: logits of all positions, and ids. */
  const run = async (masks: (Uint8Array | undefined)[], forced: Partial<StepItem> = {}) => {
    const items = masks.map((enabled) => ({
      sequence: loaded.createSequence({ kvType: 'f16', maxTokens: 128, captureRouting: true }),
      tokens,
      logits: 'all' as const,
      logitsOut: new Float32Array(tokens.length * plan.vocab),
      ...(enabled && { enabled }),
      ...forced
    }))
    await loaded.step(items, cancel)
    return items.map(({ sequence, logitsOut }) => {
      const choices = tokens.length * layers * k
      const [ids, weights] = [new Int32Array(choices), new Float32Array(choices)]
      sequence.copyRoutes(0, tokens.length, ids, weights)
      sequence.dispose()
      return { logitsOut, ids, weights }
    })
  }
  const mask = (allowed: (layer: number, expert: number) => boolean) =>
    Uint8Array.from({ length: layers * experts }, (_, i) => Number(allowed(Math.floor(i / experts), i % experts)))
  const all = mask(() => true)
  const some = mask((layer, expert) => (expert + layer) % 3 !== 0)
  const few = mask((_, expert) => expert < k)

  const [plain] = await run([undefined])
  const [whole] = await run([all])
  t.ok(bytes(whole!.logitsOut).equals(bytes(plain!.logitsOut)), 'all enabled is the plain model')
  const alone = [plain!, (await run([some]))[0]!, (await run([few]))[0]!]
  const together = await run([undefined, some, few])
  for (const [i, item] of together.entries()) {
    t.ok(bytes(item.logitsOut).equals(bytes(alone[i]!.logitsOut)), `mask ${i}: alone and together`)
  }
  for (const [i, enabled] of [some, few].entries()) {
    const { ids } = together[i + 1]!
    const wrong = ids.findIndex((id, at) => !enabled[(Math.floor(at / k) % layers) * experts + id])
    t.equal(wrong, -1, 'every expert is an enabled one')
  }
  const { ids: forcedIds, weights: forcedWeights } = together[1]!
  const [replayed] = await run([undefined], { forcedIds, forcedWeights })
  t.ok(bytes(replayed!.logitsOut).equals(bytes(alone[1]!.logitsOut)), 'a replay needs no mask')

  const short = mask((layer, expert) => layer !== 1 || expert < k - 1)
  const refusal = { code: 'ROUTING_TOO_FEW_EXPERTS', details: { layer: 1, enabled: k - 1, k } }
  t.throws(() => loaded.checkEnabled(short), refusal)
  t.doesNotThrow(() => loaded.checkEnabled(few))
  t.throws(() => loaded.checkEnabled(all.subarray(1)), { code: 'VALIDATION_ERROR' })
  await t.rejects(run([undefined, short]), refusal)
  await t.rejects(run([undefined], { forcedIds }), { code: 'VALIDATION_ERROR' })
})

/** Every function of the addon but the kernels with hostile arguments: a typed error or a result, never a crash, and nothing is kept. */
import { join } from 'node:path'
import t from 'tap'
import type { readModel as ReadModel } from '../../lib/model/index.js'
import type {
  ExpertOptions,
  GatheredFiles,
  native as Native,
  NativeBackend,
  NativeGguf,
  NativeModel,
  NativeSequence
} from '../../lib/native.js'
import type * as Safetensors from '../../lib/safetensors/open.js'
import { writeMoeModel } from '../fixtures/moe-model.js'
import { built } from '../fixtures/package.js'
import { writeTwins } from '../fixtures/safetensors.js'
import { besiege, outcome, report } from './hostile.js'

// The addon's own surface is not exported by the package: it is reached by its place.
const { native } = (await built('native.js')) as { native: typeof Native }
const { readModel } = (await built('model/index.js')) as { readModel: typeof ReadModel }
const { openModelFolder } = (await built('safetensors/open.js')) as typeof Safetensors

const addon = native()
const folder = t.testdir({})
process.chdir(folder) // a hostile path may name a file
const path = writeMoeModel(join(folder, 'small.gguf'), { type: 'Q8_0', layers: 1, experts: 4, vocab: 260 })
const hierarchical = writeMoeModel(join(folder, 'hser.gguf'), {
  type: 'Q8_0',
  layers: 1,
  vocab: 260,
  hser: { tiers: { hot: [2, 1], cold: [3] }, k: [1, 1, 1] }
})

async function open(from = path): Promise<{
  file: NativeGguf
  backend: NativeBackend
  model: NativeModel
  sequence: NativeSequence
}> {
  const file = await addon.openGguf(from)
  const backend = addon.createBackend({ threads: 2, isa: 'auto' })
  const model = await backend.loadModel(file, readModel(file).plan, { maxBatchTokens: 16 }, addon.createCancel())
  return { file, backend, model, sequence: model.createSequence({ kvType: 'f16', maxTokens: 64 }) }
}

/** What the addon is told of a folder of safetensors files. */
async function gatheredPlaces(): Promise<GatheredFiles> {
  const made = writeTwins(join(folder, 'twin'), { vocab: 260, layers: 1, experts: 2, type: 'F16' }, 2)
  let places: GatheredFiles | undefined
  const openGathered = (path: string, told: GatheredFiles) => {
    places = told
    return addon.openGathered(path, told)
  }
  const file = await openModelFolder({ ...addon, openGathered }, made.folder)
  file.close()
  return places!
}

t.test('places of tensors that no file has', async (t) => {
  const places = await gatheredPlaces()
  const before = addon.counters()
  const open = (change: Partial<GatheredFiles>) =>
    addon.openGathered(folder, { ...places, ...change }).then((file) => file.close())
  const changed = <List extends Float64Array | Uint32Array>(list: List, index: number, value: number) => {
    const copy = list.slice() as List
    copy[index] = value
    return copy
  }
  const { partOffset, partFile, fileBytes, parts, stored, halfHead, rowStep, columnStep, header } = places
  const last = partOffset.length - 1
  for (const [what, change, code] of [
    ['behind its file', { partOffset: changed(partOffset, last, fileBytes[partFile[last]!]!) }, 'VALIDATION_ERROR'],
    ['at the last byte', { partOffset: changed(partOffset, 0, fileBytes[partFile[0]!]! - 1) }, 'VALIDATION_ERROR'],
    ['in a file that is not there', { partFile: changed(partFile, 0, 2) }, 'VALIDATION_ERROR'],
    ['of wider weights', { stored: stored.map(() => 0) }, 'VALIDATION_ERROR'],
    ['of quantised weights', { stored: changed(stored, 0, 8) }, 'VALIDATION_ERROR'],
    ['of heads that are none', { halfHead: changed(halfHead, 0, 7) }, 'VALIDATION_ERROR'],
    ['of rows beyond the file', { rowStep: changed(rowStep, 0, 2 ** 40) }, 'VALIDATION_ERROR'],
    ['of rows beyond all files', { rowStep: changed(rowStep, 0, 2 ** 53) }, 'VALIDATION_ERROR'],
    ['of turned rows that follow one another', { columnStep: changed(columnStep, 0, 2) }, 'VALIDATION_ERROR'],
    ['of columns in one place', { columnStep: changed(columnStep, 0, 0) }, 'VALIDATION_ERROR'],
    ['of MXFP4 without scales', { stored: changed(stored, 0, 39) }, 'VALIDATION_ERROR'],
    ['of floats with scales', { scaleFile: Uint32Array.of(0), scaleOffset: Float64Array.of(0) }, 'VALIDATION_ERROR'],
    [
      'in no part',
      { parts: changed(parts, 0, 0), partFile: partFile.slice(1), partOffset: partOffset.slice(1) },
      'VALIDATION_ERROR'
    ],
    ['in more parts than are told', { parts: changed(parts, 0, 2) }, 'VALIDATION_ERROR'],
    ['in a file that has changed', { fileBytes: changed(fileBytes, 0, fileBytes[0]! + 1) }, 'FILE_READ_FAILED'],
    ['with a header that is cut off', { header: header.slice(0, 200) }, 'MODEL_FILE_INVALID'],
    ['with too few bytes of data', { dataBytes: places.dataBytes - 32 }, 'MODEL_FILE_INVALID']
  ] as const) {
    t.equal(await outcome(() => open(change)), code, what)
  }
  await open({})
  t.same(addon.counters(), before)
})

t.test('the addon itself', async (t) => {
  const before = addon.counters()
  const cancel = addon.createCancel()
  report(t, 'openGguf', await besiege([path], async ([file]) => (await addon.openGguf(file as string)).close()))
  const gathered = await gatheredPlaces()
  report(
    t,
    'openGathered',
    await besiege([folder, gathered], async (args) =>
      (await addon.openGathered(...(args as Parameters<typeof addon.openGathered>))).close()
    )
  )
  report(
    t,
    'quantizedType',
    await besiege([{ name: 'a', type: 'F16', shape: [32, 4] }, 'Q8_0', true], (args) =>
      addon.quantizedType(...(args as Parameters<typeof addon.quantizedType>))
    )
  )
  report(
    t,
    'quantizeGguf',
    await besiege([path, join(folder, 'out.gguf'), { type: 'Q8_0', onProgress() {} }, cancel], (args) =>
      addon.quantizeGguf(...(args as Parameters<typeof addon.quantizeGguf>))
    )
  )
  report(
    t,
    'createBackend',
    await besiege([{ threads: 1, isa: 'auto' }], (args) =>
      addon.createBackend(...(args as Parameters<typeof addon.createBackend>)).dispose()
    )
  )
  report(
    t,
    'reserveMemory',
    await besiege([2 ** 20, 2 ** 21], ([bytes, next]) => {
      const reservation = addon.reserveMemory(bytes as number)
      try {
        reservation.resize(next as number)
      } finally {
        reservation.dispose()
      }
      t.notOk(reservation.resize(1), 'nothing is held any more')
    })
  )
  const file = await addon.openGguf(path)
  report(
    t,
    'stepBytes',
    await besiege([readModel(file).plan, 16, 2], (args) =>
      addon.stepBytes(...(args as Parameters<typeof addon.stepBytes>))
    )
  )
  file.close()
  report(t, 'peakLiveBytes', await besiege([false], ([restart]) => addon.peakLiveBytes(restart as boolean)))
  const results = await besiege(['x'], ([value]) => {
    if (typeof value !== 'function') addon.initialize(value as never)
  })
  report(t, 'initialize', results)
  t.equal(results.counts.get('fine'), 1, 'only a function is taken')
  t.same(addon.counters(), before, 'nothing is kept')
})

t.test('a callback that throws ends the work with what it threw', async (t) => {
  const before = addon.counters()
  for (const value of [new RangeError('mine'), 5, undefined]) {
    const options = {
      type: 'Q4_0' as const,
      onProgress() {
        throw value
      }
    }
    await addon.quantizeGguf(path, join(folder, 'out.gguf'), options, addon.createCancel()).then(
      () => t.fail('it went on'),
      (error) => t.equal(error, value)
    )
  }
  t.same(addon.counters(), before)
})

t.test('sizes that no memory holds', async (t) => {
  const before = addon.counters()
  const { file, backend, model, sequence } = await open()
  const cancel = addon.createCancel()
  const endless = new Array(2 ** 32 - 1) as string[]
  const width = 2 ** 31
  const layout = { gate: 'F32', up: 'F32', down: 'F32', width, hidden: width } as const
  t.equal(await outcome(() => addon.expertLayout(layout)), 'VALIDATION_ERROR', 'more bytes than a size can say')
  t.equal(
    await outcome(() => addon.writeBase(file, join(folder, 'base'), { leaveOut: endless }, cancel)),
    'VALIDATION_ERROR'
  )
  const places = { files: endless, fileIndex: new Uint32Array(4), offset: new Float64Array(4) }
  t.equal(await outcome(() => model.adoptExperts(places)), 'VALIDATION_ERROR')
  const { plan } = readModel(file)
  t.equal(
    await outcome(() => addon.stepBytes({ ...plan, layers: 2 ** 32 - 1 }, 1, 1)),
    'VALIDATION_ERROR',
    'layers that nothing computes'
  )
  sequence.dispose()
  await model.dispose()
  file.close()
  backend.dispose()
  t.same(addon.counters(), before)
})

t.test('methods on foreign objects, constructors, and use after the end', async (t) => {
  const before = addon.counters()
  const { file, backend, model, sequence } = await open()
  const cancel = addon.createCancel()
  const objects = { file, backend, model, sequence, cancel } as Record<string, object>
  for (const [name, object] of Object.entries(objects)) {
    const prototype = Object.getPrototypeOf(object)
    t.equal(await outcome(() => new prototype.constructor()), 'VALIDATION_ERROR', `new ${prototype.constructor.name}`)
    class Derived extends prototype.constructor {}
    t.equal(await outcome(() => new Derived()), 'VALIDATION_ERROR', 'a class derived from it')
    for (const [key, { value, get }] of Object.entries(Object.getOwnPropertyDescriptors(prototype))) {
      if (key === 'constructor') continue
      const method = (value ?? get) as () => unknown
      for (const other of [
        ...Object.values(objects).filter((o) => o !== object),
        {},
        undefined,
        5,
        Object.create(object)
      ]) {
        t.equal(await outcome(() => method.call(other)), 'VALIDATION_ERROR', `${name}.${key}`)
      }
    }
  }
  sequence.dispose()
  await model.dispose()
  file.close()
  backend.dispose()
  for (const end of [() => sequence.dispose(), () => model.dispose(), () => file.close(), () => backend.dispose()]) {
    t.equal(await outcome(end), 'fine', 'ending twice')
  }
  t.equal(await outcome(() => sequence.length), 'VALIDATION_ERROR')
  t.equal(await outcome(() => sequence.truncate(0)), 'VALIDATION_ERROR')
  t.equal(await outcome(() => model.step([], cancel)), 'MODEL_NOT_LOADED')
  t.equal(await outcome(() => model.createSequence({ kvType: 'f16', maxTokens: 1 })), 'MODEL_NOT_LOADED')
  t.equal(await outcome(() => backend.kernels()), 'VALIDATION_ERROR')
  t.equal(await outcome(() => backend.call('rmsNorm', [], false)), 'VALIDATION_ERROR')
  t.same(addon.counters(), before)
})

t.test('models and sequences', async (t) => {
  const before = addon.counters()
  const { file, backend, model, sequence } = await open()
  const cancel = addon.createCancel()
  report(
    t,
    'createSequence',
    await besiege([{ kvType: 'f16', maxTokens: 8, captureRouting: true }], ([options]) =>
      model.createSequence(options as never).dispose()
    )
  )
  t.equal(model.prefixStats?.(), undefined, 'nothing is shared')
  t.equal(model.evictPrefixes?.(1), 0)
  t.equal(sequence.reuse?.(new Int32Array(64)), 0)
  report(t, 'truncate', await besiege([0], ([length]) => sequence.truncate(length as number)))
  const sampling = {
    temperature: 1,
    topK: 5,
    topP: 0.9,
    minP: 0.1,
    repetitionPenalty: 1.1,
    seed: 1,
    topLogprobs: 2,
    recent: new Int32Array(2),
    banned: new Int32Array(1),
    allowed: new Uint32Array(9).fill(-1)
  }
  const item = {
    sequence,
    tokens: new Int32Array([1, 2]),
    logits: 'all',
    logitsOut: new Float32Array(2 * 260),
    sampling,
    enabled: new Uint8Array(4).fill(1),
    forcedIds: Int32Array.of(0, 1, 2, 3, 0, 1, 2, 3),
    forcedWeights: new Float32Array(8).fill(0.5)
  }
  report(
    t,
    'step',
    await besiege([[item], cancel], async (args) => {
      sequence.truncate(0)
      await model.step(...(args as Parameters<typeof model.step>))
    })
  )
  const captured = model.createSequence({ kvType: 'f16', maxTokens: 8, captureRouting: true })
  await model.step([{ sequence: captured, tokens: new Int32Array(3), logits: 'none' }], cancel)
  const [ids, weights] = [new Int32Array(8), new Float32Array(8)]
  report(
    t,
    'copyRoutes',
    await besiege([1, 2, ids, weights], (args) =>
      captured.copyRoutes(...(args as Parameters<typeof captured.copyRoutes>))
    )
  )
  t.equal(await outcome(() => captured.copyRoutes(2, 2, ids, weights)), 'VALIDATION_ERROR', 'past what it holds')
  t.equal(await outcome(() => sequence.copyRoutes(0, 0, ids, weights)), 'fine', 'nothing of one that keeps none')
  captured.dispose()
  report(
    t,
    'checkEnabled',
    await besiege([new Uint8Array(4).fill(1)], ([mask]) => model.checkEnabled(mask as Uint8Array))
  )
  t.equal(model.expertStats(), undefined, 'every expert stays in memory')
  report(t, 'setExpertBudget', await besiege([1], ([bytes]) => model.setExpertBudget(bytes as number)))
  report(t, 'placeExperts', await besiege([new Uint8Array(4)], ([mask]) => model.placeExperts(mask as Uint8Array)))
  const experts = {
    budgetBytes: 2 ** 30,
    kvReserveBytes: 0,
    policy: 'lru',
    prefetch: 'off',
    ioThreads: 1,
    seed: 0,
    placement: new Uint8Array(4),
    blobs: {
      files: [path],
      types: [['Q8_0', 'Q8_0', 'Q8_0']],
      fileIndex: new Uint32Array(4),
      offset: new Float64Array(4),
      crc32c: new Uint32Array(4)
    }
  }
  report(
    t,
    'loadModel with experts',
    await besiege([experts], async ([value]) => {
      const options = { maxBatchTokens: 4, experts: value as ExpertOptions }
      await (await backend.loadModel(file, readModel(file).plan, options, addon.createCancel())).dispose()
    })
  )
  const other = await backend.loadModel(file, readModel(file).plan, { maxBatchTokens: 4 }, cancel)
  t.equal(
    await outcome(() => other.step([{ sequence, tokens: new Int32Array(1), logits: 'none' }], cancel)),
    'VALIDATION_ERROR',
    "another model's sequence"
  )
  await other.dispose()
  sequence.truncate(0)
  const logitsOut = new Float32Array(260)
  const step = model.step([{ sequence, tokens: new Int32Array([1]), logits: 'last', logitsOut }], cancel)
  t.equal(await outcome(() => sequence.truncate(0)), 'VALIDATION_ERROR', 'a step is under way')
  structuredClone(logitsOut.buffer, { transfer: [logitsOut.buffer] })
  t.equal(await outcome(() => step), 'VALIDATION_ERROR', 'logitsOut was transferred meanwhile')
  for (const end of [sequence, model, backend]) await end.dispose()
  file.close()
  t.same(addon.counters(), before)
})

for (const [kind, from] of Object.entries({ plans: path, 'plans of a hierarchical model': hierarchical }))
  t.test(kind, async (t) => {
    const before = addon.counters()
    const { file, backend, model, sequence } = await open(from)
    const { plan } = readModel(file)
    const cancel = addon.createCancel()
    const args = [file, plan, { maxBatchTokens: 4, onProgress() {} }, cancel]
    report(
      t,
      'loadModel',
      await besiege(args, async (changed) => {
        const loaded = await backend.loadModel(...(changed as Parameters<typeof backend.loadModel>))
        try {
          const started = loaded.createSequence({ kvType: 'f16', maxTokens: 8 })
          try {
            await loaded.step([{ sequence: started, tokens: new Int32Array([1, 2]), logits: 'last' }], cancel)
          } finally {
            started.dispose()
          }
        } finally {
          await loaded.dispose()
        }
      })
    )
    for (const end of [sequence, model, backend]) await end.dispose()
    file.close()
    t.same(addon.counters(), before)
  })

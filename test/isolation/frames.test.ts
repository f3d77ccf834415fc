import t from 'tap'
import { createError, isEngineError } from '../../lib/errors/index.js'
import { encodeFrame, FrameDecoder, frameKinds } from '../../lib/isolation/frames.js'
import { decodeTokens, encodeTokens } from '../../lib/isolation/tokens.js'
import { pack, unpack } from '../../lib/isolation/values.js'
import { pair } from './channel.js'

const frames = [
  { kind: frameKinds.message, id: 0, payload: Buffer.from('{"jsonrpc":"2.0"}') },
  { kind: frameKinds.tokens, id: 7, payload: Buffer.alloc(0) },
  { kind: frameKinds.attachment, id: 2 ** 32 - 1, payload: Buffer.from([1, 2, 3, 4, 5]) }
]
const bytes = Buffer.concat(frames.flatMap(encodeFrame))

t.test('frames come out as they went in, however they are cut', async (t) => {
  t.same(new FrameDecoder().push(bytes), frames)
  for (let cut = 1; cut < bytes.length; cut++) {
    const decoder = new FrameDecoder()
    t.same([...decoder.push(bytes.subarray(0, cut)), ...decoder.push(bytes.subarray(cut))], frames, `cut at ${cut}`)
  }
  const decoder = new FrameDecoder()
  t.same(
    [...bytes].flatMap((byte) => decoder.push(Buffer.from([byte]))),
    frames,
    'byte by byte'
  )
})

t.test('no damaged byte goes unnoticed', async (t) => {
  const heads = frames.map((_, i) => Buffer.concat(frames.slice(0, i).flatMap(encodeFrame)).length)
  for (let at = 0; at < bytes.length; at++) {
    const damaged = Buffer.from(bytes)
    damaged[at]! ^= 1 << (at % 8)
    const decoder = new FrameDecoder()
    const push = () => [...decoder.push(damaged), ...decoder.push(Buffer.alloc(2 ** 18))]
    // For the rest of a frame that says it is longer, it waits.
    const head = heads.find((begin) => at >= begin + 4 && at < begin + 8)
    if (head !== undefined && damaged.readUInt32LE(head + 4) > 2 ** 17) continue
    t.throws(push, { code: 'WORKER_PROTOCOL_ERROR' }, `byte ${at}`)
    t.throws(() => decoder.push(bytes), { code: 'WORKER_PROTOCOL_ERROR' }, `byte ${at}: for good`)
  }
  const head = encodeFrame({ kind: 0, id: 0, payload: Buffer.alloc(0) })[0]!
  head.writeUInt32LE(2 ** 24 + 1, 4)
  t.throws(() => new FrameDecoder().push(head), { code: 'WORKER_PROTOCOL_ERROR', details: { frame: { kind: 0 } } })
})

function roundTrip(value: unknown): unknown {
  const attached: Buffer[] = []
  const packed = pack(value, (own) => attached.push(Buffer.from(own)) - 1)
  return unpack(JSON.parse(JSON.stringify(packed)), (id) => attached[id])
}

t.test('values keep what JSON has no form for', async (t) => {
  const value = {
    routing: { ids: Int32Array.of(-1, 2), weights: new Float32Array([0.5]).subarray(0, 1), none: new Uint8Array(0) },
    numbers: [1.5, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 12345678901234567890n],
    $bin: 'a key that looks like ours',
    $$: [null, true, 'text']
  }
  t.strictSame(roundTrip(value), value)
  t.strictSame(Object.keys(roundTrip(JSON.parse('{"__proto__": 1}')) as object), ['__proto__'])
  const cause = createError('FILE_READ_FAILED', 'a file', { path: 'x', errno: 'EIO' })
  const details = { tierSets: { my_tier: 1 }, tokens: [1], data: Float32Array.of(1) }
  const error = createError('MODEL_NOT_FOUND', 'the message', details, { cause })
  const found = roundTrip({ error }) as { error: typeof error }
  t.match(found.error, { code: 'MODEL_NOT_FOUND', message: 'the message', timestamp: error.timestamp })
  t.strictSame(found.error.details, error.details)
  t.match(found.error.cause, { code: 'FILE_READ_FAILED', details: { errno: 'EIO' } })
  const circle: Record<string, unknown> = {}
  circle.self = circle
  t.throws(() => pack(circle, () => 0), RangeError)
  for (const bad of [
    { $bin: [0, 'Float32Array', 1] },
    { $bin: [9, 'Uint8Array', 3] },
    { $bin: [0, 'Function', 3] },
    { $bin: null },
    { $number: '1e9' },
    { $other: 1 }
  ]) {
    t.throws(() => unpack(bad, (id) => (id === 0 ? Buffer.alloc(3) : undefined)), { code: 'WORKER_PROTOCOL_ERROR' })
  }
})

t.test('items of a stream', async (t) => {
  const items = [
    { text: 'é ', token: -1, logprob: -0.1 },
    { text: '', token: 2 ** 31 - 1, logprob: -1e-300, topLogprobs: [{ token: 1, logprob: -Math.PI }] },
    { text: 'x'.repeat(70_000), token: 5 },
    { text: 'y', token: 6, logprob: 0, topLogprobs: [] }
  ]
  const encoded = encodeTokens(4e9, items)
  t.strictSame(decodeTokens(encoded), { from: 4e9, items })
  for (const cut of [0, 5, 6, 20, encoded.length - 1]) {
    t.throws(() => decodeTokens(encoded.subarray(0, cut)), { code: 'WORKER_PROTOCOL_ERROR' }, `cut at ${cut}`)
  }
  t.throws(() => decodeTokens(Buffer.concat([encoded, Buffer.alloc(1)])), { code: 'WORKER_PROTOCOL_ERROR' })
})

t.test('calls in both directions', async (t) => {
  const { near, far, faults } = pair()
  far.handle('double', ({ values }: { values: Float32Array }) => values.map((value) => 2 * value))
  far.handle('fail', () => {
    throw createError('MODEL_NOT_LOADED', 'no', { model: 'm', loaded: [] })
  })
  far.handle(
    'wait',
    (_: unknown, { signal }) =>
      new Promise((_, reject) =>
        signal.addEventListener('abort', () => reject(createError('CANCELLED', 'it was cancelled')))
      )
  )
  near.handle('name', () => 'near')
  const values = Float32Array.of(1, 2.5)
  t.strictSame(await near.call('double', { values }), Float32Array.of(2, 5))
  t.equal(await far.call('name', {}), 'near')
  await t.rejects(near.call('fail', {}), { code: 'MODEL_NOT_LOADED', details: { model: 'm' } })
  await t.rejects(near.call('absent', {}), { code: 'UNKNOWN_ERROR', details: { method: 'absent' } })
  const circle: unknown[] = []
  circle.push(circle)
  await t.rejects(near.call('double', circle), { code: 'VALIDATION_ERROR' })
  const abort = new AbortController()
  const waiting = near.call('wait', {}, { signal: abort.signal })
  setImmediate(() => abort.abort())
  await t.rejects(waiting, { code: 'CANCELLED', message: 'it was cancelled' })
  const left = near.call('wait', {})
  near.close(createError('WORKER_CRASHED', 'gone'))
  await t.rejects(left, { code: 'WORKER_CRASHED' })
  await t.rejects(near.call('double', {}), { code: 'WORKER_CRASHED' })
  t.same(faults, [])
})

t.test('what is no message is a fault, once', async (t) => {
  const send = (kind: number, text: string) => Buffer.concat(encodeFrame({ kind, id: 1, payload: Buffer.from(text) }))
  for (const bytes of [
    Buffer.from('GET / HTTP/1.1\r\n\r\n'),
    send(0, 'no json'),
    send(0, '[]'),
    send(0, '{"jsonrpc":"2.0"}'),
    send(0, '{"jsonrpc":"2.0","id":1,"error":null}'),
    send(0, '{"jsonrpc":"2.0","method":"x","params":{"$bin":[1,"Uint8Array",1]}}'),
    send(0, '{"jsonrpc":"2.0","method":"nobody knows it"}'),
    send(0, '{"jsonrpc":"2.0","method":"heartbeat"}')
  ]) {
    const { far, faults, raw } = pair()
    far.handle('heartbeat', ({ counters }: { counters: object }) => counters)
    const waiting = far.call('x', {})
    raw.write(bytes)
    setTimeout(() => far.close(createError('WORKER_CRASHED', 'in the end')), 20)
    await t.rejects(waiting)
    t.equal(faults.length, 1, bytes.toString('latin1').slice(16))
    t.ok(isEngineError(faults[0]))
    raw.write(bytes)
  }
})

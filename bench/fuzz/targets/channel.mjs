// The channel between an engine and its worker process: either side may die in the middle of a write, or write what it should not.
import { Duplex } from 'node:stream'
import { encodeFrame, FrameDecoder, frameKinds } from '../../../dist/esm/isolation/frames.js'
import { RpcPeer } from '../../../dist/esm/isolation/rpc.js'
import { decodeTokens, encodeTokens } from '../../../dist/esm/isolation/tokens.js'
import { mutatedBytes, mutatedValue } from '../mutate.mjs'

const items = [
  { text: 'a', token: 5, logprob: -0.5, topLogprobs: [{ token: 5, logprob: -0.5 }] },
  { text: '😀', token: -1 }
]
const messages = [
  { jsonrpc: '2.0', id: 1, method: 'engine.tokenize', params: { model: 'a', text: 'ROMEO:' } },
  {
    jsonrpc: '2.0',
    id: 1,
    result: { tokens: { $bin: [1, 'Float32Array', 2] }, wide: { $bigint: '12' }, odd: { $number: 'NaN' } }
  },
  {
    jsonrpc: '2.0',
    id: 1,
    error: { code: -32000, message: 'x', data: { code: 'CANCELLED', message: 'x', details: {} } }
  },
  { jsonrpc: '2.0', method: '$/cancel', params: { id: 1 } },
  { jsonrpc: '2.0', method: 'heartbeat', params: { at: 1, state: 'active', counters: {}, streams: [1, 2] } },
  {
    jsonrpc: '2.0',
    method: 'stream.end',
    params: { stream: 3, error: { $error: { code: 'INFERENCE_TIMEOUT', message: 'x' } } }
  }
]

const frame = (kind, id, payload) => Buffer.concat(encodeFrame({ kind, id, payload }))
const sound = [
  frame(frameKinds.attachment, 1, Buffer.alloc(8, 1)),
  ...messages.map((message) => frame(frameKinds.message, 0, Buffer.from(JSON.stringify(message)))),
  frame(frameKinds.tokens, 3, encodeTokens(0, items))
]

/** In pieces of any length. */
function* pieces(draw, bytes) {
  for (let at = 0; at < bytes.length; ) {
    const end = at + 1 + draw.size(bytes.length)
    yield bytes.subarray(at, end)
    at = end
  }
}

export async function frames() {
  return {
    make(draw) {
      const all = Array.from({ length: 1 + draw.below(6) }, () => draw.pick(sound))
      return [...pieces(draw, mutatedBytes(draw, [Buffer.concat(all)], [Buffer.from([0x4d, 0x54, 1])]))]
    },
    parse(input) {
      const decoder = new FrameDecoder()
      const found = input.flatMap((piece) => decoder.push(piece))
      for (const { kind, payload } of found) if (kind === frameKinds.tokens) decodeTokens(payload)
    }
  }
}

/** Frames with the right checksums around messages that may be anything; calls are answered by what they bring. */
export async function calls() {
  return {
    make(draw) {
      const sent = Array.from({ length: 1 + draw.below(4) }, () => {
        const message = mutatedValue(draw, draw.pick(messages))
        const text = Buffer.from(JSON.stringify(message) ?? '')
        return frame(frameKinds.message, 0, draw.chance(0.2) ? mutatedBytes(draw, [text]) : text)
      })
      const tokens = frame(frameKinds.tokens, 3, mutatedBytes(draw, [encodeTokens(0, items)]))
      const attachment = frame(frameKinds.attachment, draw.below(3), mutatedBytes(draw, [Buffer.alloc(8, 1)]))
      return [draw.chance(0.5) ? attachment : sound[0], ...sent, ...(draw.chance(0.3) ? [tokens] : [])]
    },
    async parse(input) {
      const channel = new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() })
      const faults = []
      const peer = new RpcPeer(channel, {
        onFault: (error) => faults.push(error),
        onTokens: (_stream, bytes) => decodeTokens(bytes)
      })
      for (const method of ['engine.tokenize', 'heartbeat', 'stream.end']) peer.handle(method, (params) => params)
      const answer = peer.call('engine.generate', {}).catch((error) => faults.push(error))
      for (const bytes of input) channel.push(bytes)
      await new Promise((resolve) => setImmediate(resolve))
      peer.close(new Error('the end of the input'))
      await answer
      channel.destroy()
      const [first] = faults.filter(({ message }) => message !== 'the end of the input')
      if (first) throw first
    }
  }
}

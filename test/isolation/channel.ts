import { Duplex, PassThrough } from 'node:stream'
import { RpcPeer } from '../../lib/isolation/rpc.js'

/** The two ends of one channel, and what one of them can write to it that is no message. */
export function pair() {
  const [there, back] = [new PassThrough(), new PassThrough()]
  const end = (readable: PassThrough, writable: PassThrough) => Duplex.from({ readable, writable })
  const faults: unknown[] = []
  const onFault = (error: unknown) => faults.push(error)
  const tokens: [stream: number, bytes: Buffer][] = []
  return {
    near: new RpcPeer(end(back, there), { onFault, onTokens: (...own) => tokens.push(own) }),
    far: new RpcPeer(end(there, back), { onFault }),
    faults,
    tokens,
    raw: there
  }
}

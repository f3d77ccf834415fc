/** The program of a worker process: an engine behind the channel that the process was started with. */
import { Socket } from 'node:net'
import type { InitializeParams } from './protocol.js'
import { RpcPeer } from './rpc.js'
import { WorkerEngine } from './worker-engine.js'

/** Where the other side put the channel. */
const channelDescriptor = 3
/** Of a channel that broke: EX_PROTOCOL has no better. */
const brokenExitCode = 255

/** Whoever started it ends it, whatever its terminal says. */
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => {})

const channel = new Socket({ fd: channelDescriptor, readable: true, writable: true })
const rpc = new RpcPeer(channel, { onFault: () => process.exit(brokenExitCode) })
let disposed = false
rpc.handle('initialize', (params: InitializeParams) => WorkerEngine.initialize(rpc, params))
rpc.handle('exit', () => {
  disposed = true
})
// Nobody is left to work for. Native work under way must not hold an orphan up; what it wrote is safe against a death at any moment.
channel.on('close', () => (disposed ? process.exit(0) : process.kill(process.pid, 'SIGKILL')))

/** A TCP proxy that breaks connections on purpose: real sockets between the client and a real server. */
import type { Socket } from 'node:net'
import { connect, createServer } from 'node:net'

/** What happens on one connection, once `after` bytes have come from the server. */
export interface Fault {
  kind: 'reset' | 'close' | 'stall' | 'corrupt'
  /** Bytes of the server's answers, heads included. */
  after: number
}

export interface FaultyProxy {
  port: number
  url: string
  /** Faults of the next connections, in order; connections after the last have none. */
  faults: (Fault | undefined)[]
  /** Applied to every connection where the list is empty. */
  always: Fault | undefined
  /** Connections accepted. */
  connections: number
  close(): Promise<void>
}

/** A proxy in front of a port of this machine. */
export async function startFaultyProxy(target: number): Promise<FaultyProxy> {
  const sockets = new Set<Socket>()
  const server = createServer((client) => {
    proxy.connections++
    const fault = proxy.faults.length > 0 ? proxy.faults.shift() : proxy.always
    const upstream = connect(target, '127.0.0.1')
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.on('close', () => sockets.delete(socket))
      socket.on('error', () => undefined)
    }
    let passed = 0
    let broken = false
    client.on('data', (data) => upstream.write(data))
    client.on('close', () => upstream.destroy())
    upstream.on('close', () => {
      if (!broken) client.end()
    })
    upstream.on('data', (data) => {
      const before = passed
      passed += data.length
      if (!fault || passed <= fault.after || before > fault.after) {
        if (fault?.kind !== 'stall' || passed <= fault.after) client.write(data)
        return
      }
      const at = fault.after - before
      if (fault.kind === 'corrupt') {
        const copy = Buffer.from(data)
        copy[at]! ^= 0x10
        client.write(copy)
        return
      }
      broken = true
      const finish = (): void => {
        // A reset throws away what the other side has not read yet: it gets the time to.
        if (fault.kind === 'reset') setTimeout(() => client.resetAndDestroy(), 30)
        else if (fault.kind === 'close') client.end()
      }
      if (at > 0) client.write(data.subarray(0, at), finish)
      else finish()
      if (fault.kind !== 'stall') upstream.destroy()
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as { port: number }
  const proxy: FaultyProxy = {
    port,
    url: `http://127.0.0.1:${port}`,
    faults: [],
    always: undefined,
    connections: 0,
    async close() {
      const ended = new Promise((resolve) => server.close(resolve))
      for (const socket of sockets) socket.destroy()
      await ended
    }
  }
  return proxy
}

/** Takes a port: the one asked for, or one of those after it. */
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { configInvalid } from '../config/provenance.js'
import { createError } from '../errors/index.js'

export interface Listening {
  host: string
  port: number
  /** The ports that were not free, and the one that was. */
  tried: number[]
}

const highestPort = 65_535

/** PORT_IN_USE {tried}; CONFIG_INVALID for an address that is not this machine's, or a port that it may not have. */
export async function listenOn(server: Server, host: string, port: number, tries: number): Promise<Listening> {
  const tried: number[] = []
  for (let next = port; tried.length < tries && next <= highestPort; next++) {
    tried.push(next)
    const failure = await attempt(server, host, next)
    if (failure === undefined) {
      const { port: bound } = server.address() as AddressInfo
      return { host, port: bound, tried }
    }
    if (failure.code === 'EADDRINUSE') continue
    const path = failure.code === 'EACCES' ? 'server.port' : 'server.host'
    const found = failure.code === 'EACCES' ? String(next) : host
    const allowed = `one that can be listened on (${failure.code})`
    throw configInvalid([{ path, found, allowed, source: 'option' }])
  }
  const list = tried.length === 1 ? `port ${tried[0]}` : `none of the ports ${tried[0]} to ${tried.at(-1)}`
  const text = `${list} of ${host} is ${tried.length === 1 ? 'not ' : ''}free`
  throw createError('PORT_IN_USE', text, { tried, bound: null })
}

const attempt = (server: Server, host: string, port: number): Promise<NodeJS.ErrnoException | undefined> =>
  new Promise((resolve) => {
    const onError = (error: NodeJS.ErrnoException): void => {
      server.removeListener('listening', onListening)
      resolve(error)
    }
    const onListening = (): void => {
      server.removeListener('error', onError)
      resolve(undefined)
    }
    server.once('error', onError)
    server.once('listening', onListening)
    server.listen({ host, port })
  })

// A live `tiered-moe serve` for the rows whose fault a client can see.
import { Client, startServing } from '../serve.mjs'
import { lasting, stateOf } from './baseline.mjs'

/** Starts a server with these settings; `env`, `args` as startServing has them. */
export async function startServer(folder, settings = {}, { args = [], ...options } = {}) {
  return new Server(await startServing(folder, settings, { ...options, args: ['--log', 'json', ...args] }))
}

/** The text of a stream of completions. */
export const streamed = (events) =>
  [...events.matchAll(/^data: (\{.*\})$/gm)].map(([, json]) => JSON.parse(json).choices?.[0]?.text ?? '').join('')

class Server extends Client {
  constructor({ child, url, ended, told }) {
    super(url)
    this.child = child
    this.pid = child.pid
    this.ended = ended
    this.told = told
  }

  /** What its process holds, seen from outside. */
  state() {
    return stateOf(this.pid)
  }

  /** Runs `use` and tells the row what the server's process then has more or less than before. */
  async watched(t, use) {
    const before = this.state()
    await use()
    for (const { kind, text } of await lasting(before, () => this.state()))
      t.problems.push(`server: ${kind} not back: ${text}`)
  }

  /** Ends it; resolves to how it ended. */
  async stop(signal = 'SIGTERM') {
    this.child.kill(signal)
    return this.ended
  }
}

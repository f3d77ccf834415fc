// A live `tiered-moe serve` for the rows whose fault a client can see, and the client: bare HTTP, so that nothing is retried or hidden.
import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { join } from 'node:path'
import { MAIN } from '../../test/cli/command.ts'
import { lasting, stateOf } from './baseline.mjs'

/** Starts a server with these settings (JSON is YAML too). `env`: variables of its process. */
export async function startServer(folder, settings = {}, { env = {}, args = [] } = {}) {
  const path = join(folder, `serve-${process.hrtime.bigint()}.yaml`)
  const { server, ...others } = settings
  writeFileSync(path, JSON.stringify({ engine: { threads: 1 }, server: { port: 0, ...server }, ...others }))
  const child = spawn(process.execPath, [MAIN, 'serve', '--config', path, '--json', '--log', 'json', ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  let told = ''
  const ended = new Promise((resolve) => child.on('close', (code, signal) => resolve(code ?? signal)))
  const url = await new Promise((resolve, reject) => {
    const hear = (part) => {
      told += part
      return told
    }
    child.stdout.on('data', (part) => {
      const found = /^\{"url":"([^"]+)"/m.exec(hear(part))?.[1]
      if (found) resolve(found)
    })
    child.stderr.on('data', hear)
    void ended.then((end) => reject(new TypeError(`serve ended with ${end}: ${told.slice(-1500)}`)))
  })
  return new Server(child, url, ended, () => told)
}

/** The text of a stream of completions. */
export const streamed = (events) =>
  [...events.matchAll(/^data: (\{.*\})$/gm)].map(([, json]) => JSON.parse(json).choices?.[0]?.text ?? '').join('')

/** Asks a server that listens at `url`. */
export class Client {
  constructor(url) {
    this.url = url
  }

  /** {status, headers, body (parsed where it is JSON), text}. `key`: bearer; `signal` ends the connection. */
  ask(method, path, { body, key, headers = {}, signal, onData } = {}) {
    const payload = body === undefined || typeof body === 'string' ? body : JSON.stringify(body)
    return new Promise((resolve, reject) => {
      const request = httpRequest(
        `${this.url}${path}`,
        {
          method,
          agent: false,
          signal,
          headers: {
            ...(payload !== undefined && {
              'content-type': 'application/json',
              'content-length': Buffer.byteLength(payload)
            }),
            ...(key !== undefined && { authorization: `Bearer ${key}` }),
            ...headers
          }
        },
        (answer) => {
          let text = ''
          answer.setEncoding('utf8')
          answer.on('data', (part) => {
            text += part
            onData?.(part)
          })
          answer.on('error', reject)
          answer.on('end', () => {
            let parsed
            try {
              parsed = JSON.parse(text)
            } catch {
              // Streams, metrics.
            }
            resolve({ status: answer.statusCode, headers: answer.headers, body: parsed, text })
          })
        }
      )
      request.on('error', reject)
      request.end(payload)
    })
  }

  post(path, body, options = {}) {
    return this.ask('POST', path, { ...options, body })
  }

  /** A text in one piece; `fields` of the request. */
  complete(fields = {}, options = {}) {
    return this.post(
      '/v1/completions',
      { model: 'tiny-shakespeare', prompt: 'ROMEO:', temperature: 0, max_tokens: 24, ...fields },
      options
    )
  }

  /** Its text, where it has one. */
  async text(fields, options) {
    const { body } = await this.complete(fields, options)
    return body?.choices?.[0]?.text
  }

  /** The value of a metric without labels. */
  async metric(name, options) {
    const { text } = await this.ask('GET', '/metrics', options)
    return Number(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, 'm').exec(text)?.[1])
  }
}

class Server extends Client {
  constructor(child, url, ended, told) {
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

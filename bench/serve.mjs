// A `tiered-moe serve` in a process of its own, and a client of bare HTTP, so that nothing is retried or hidden.
import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { join } from 'node:path'
import { root } from './harness.mjs'

/**
 * Starts a server on a free port with these settings (JSON is YAML too). `env`: variables of its process; `args`, `nodeArgs`: of the command and of
 * Node; `ipc`: with a channel. Resolves to {child, url, ended: how it ended, told: what it wrote until now}.
 */
export async function startServing(folder, settings, { env = {}, args = [], nodeArgs = [], ipc = false } = {}) {
  const path = join(folder, `serve-${process.hrtime.bigint()}.yaml`)
  const { server, ...others } = settings
  writeFileSync(path, JSON.stringify({ engine: { threads: 1 }, server: { port: 0, ...server }, ...others }))
  const main = join(root, 'dist', 'esm', 'cli', 'main.js')
  const child = spawn(process.execPath, [...nodeArgs, main, 'serve', '--config', path, '--json', ...args], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe', ...(ipc ? ['ipc'] : [])]
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
  return { child, url, ended, told: () => told }
}

/** Asks a server that listens at `url`. */
export class Client {
  constructor(url) {
    this.url = url
  }

  /**
   * {status, headers, body (parsed where it is JSON), text}. `key`: bearer; `signal` ends the connection, as does nothing that comes for `timeout` ms.
   */
  ask(method, path, { body, key, headers = {}, signal, timeout, onData, agent = false } = {}) {
    const payload = body === undefined || typeof body === 'string' ? body : JSON.stringify(body)
    return new Promise((resolve, reject) => {
      const request = httpRequest(
        `${this.url}${path}`,
        {
          method,
          agent,
          signal,
          timeout,
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
      request.on('timeout', () => request.destroy(new TypeError(`nothing came for ${timeout} ms`)))
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

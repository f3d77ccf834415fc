/** A server over the embedded model, and ways to ask it. */
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import type { Engine, EngineEvent, EngineOptions, ErrorCode } from 'tiered-moe'
import { createEngine } from 'tiered-moe'
import type { Server, ServerOptions } from 'tiered-moe/server'
import { createServer } from 'tiered-moe/server'
import { writeMoeModel } from '../fixtures/moe-model.js'

export const model = 'tiny-shakespeare'

export interface Setting {
  engine: Engine
  server: Server
  url: string
  /** Of the server and of its engine, as they came. */
  events: EngineEvent[]
  close(): Promise<void>
}

/** A server on a port of its own; `engine` is shared where it is given, and disposed of where it is not. */
export async function startServer(
  options: ServerOptions = {},
  { engine: given, ...engineOptions }: EngineOptions & { engine?: Engine } = {}
): Promise<Setting> {
  const events: EngineEvent[] = []
  const onEvent = (event: EngineEvent) => events.push(event)
  const engine = given ?? (await startEngine({ onEvent, ...engineOptions }))
  const server = await createServer(engine, { port: 0, drainMs: 0, onEvent, ...options })
  await server.listen()
  const close = async (): Promise<void> => {
    await server.close()
    if (!given) await engine.dispose()
  }
  return { engine, server, url: server.url, events, close }
}

export async function startEngine(options: EngineOptions = {}): Promise<Engine> {
  const engine = await createEngine({ threads: 1, telemetry: { openTelemetry: false }, ...options })
  await engine.loadModel({ chatTemplate: 'plain' })
  return engine
}

/** Loads a small model whose texts take so long that nobody waits for their end, as `long`. */
export async function loadLong(engine: Engine, folder: string): Promise<void> {
  const path = join(folder, 'long.gguf')
  // No token ends a text.
  const metadata = { 'tokenizer.ggml.eos_token_id': undefined, 'tokenizer.ggml.bos_token_id': undefined }
  writeMoeModel(path, { contextLength: 65_536, vocab: 256, metadata })
  await engine.loadModel({ model: path, id: 'long' })
}

/** A stream of `long` that has begun and goes on until it is let go, or the server ends it; then what came of it. */
export async function hold(url: string, { key, ...fields }: { key?: string } & Record<string, unknown> = {}) {
  const controller = new AbortController()
  const reply = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...(key !== undefined && { authorization: `Bearer ${key}` }) },
    body: JSON.stringify({ model: 'long', prompt: [1, 2, 3], max_tokens: 60_000, stream: true, ...fields }),
    signal: controller.signal
  })
  const text = reply.text().catch(() => 'aborted')
  return { status: reply.status, headers: reply.headers, text, letGo: () => controller.abort() }
}

export const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')

export interface Answer {
  status: number
  headers: Headers
  // biome-ignore lint/suspicious/noExplicitAny: JSON, whose parts the tests look at
  body: any
}

interface Asking {
  method?: string
  key?: string
  headers?: Record<string, string>
  signal?: AbortSignal
}

/** Sends JSON (a string: as it is), or nothing, and reads JSON. */
export async function ask(url: string, body?: unknown, { method, key, headers, signal }: Asking = {}): Promise<Answer> {
  const reply = await fetch(url, {
    method: method ?? (body === undefined ? 'GET' : 'POST'),
    headers: {
      ...(body !== undefined && { 'content-type': 'application/json' }),
      ...(key !== undefined && { authorization: `Bearer ${key}` }),
      ...headers
    },
    ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    ...(signal && { signal })
  })
  const text = await reply.text()
  const json = reply.headers.get('content-type')?.startsWith('application/json')
  return { status: reply.status, headers: reply.headers, body: json ? JSON.parse(text) : text }
}

/** The request that most tests send. */
export const completion = (fields: object = {}) => ({
  model,
  prompt: 'ROMEO:',
  max_tokens: 4,
  temperature: 0,
  ...fields
})

/** The status and the code of a failed answer. */
export const failure = ({ status, body }: Answer): [number, ErrorCode] => [status, body.error?.code]

/** Resolves once `holds` does; a test that waits for nothing ends. */
export async function until(holds: () => boolean): Promise<void> {
  const end = performance.now() + 20_000
  while (!holds()) {
    if (performance.now() > end) throw new Error(`never: ${holds}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** `tiered-moe serve`: models over HTTP, as OpenAI's API has them (docs/server.md). */
import { type Command, Option } from 'commander'
import type { Engine, EngineOptions, LoadModelRequest, Logger, RuntimeConfig } from '../index.js'
import { createEngine } from '../index.js'
import { engineOptions, tellConfig } from '../open-configured.js'
import { modelId } from '../runtime-schema.js'
import type { Server } from '../server/index.js'
import { filePath, given, integer, modelArgument, number } from './arguments.js'
import { type EngineChoices, withEngineOptions } from './engine.js'
import type { Session } from './session.js'
import { configured, requested } from './with-model.js'

interface ServeOptions extends EngineChoices {
  host?: string
  port?: number | 'auto'
  portTries?: number
  workers?: number
  concurrency?: number
  queue?: number
  log?: 'text' | 'json' | 'off'
  debug?: boolean
  json?: boolean
}

/** Ports that `auto` tries from the first one on. */
const autoTries = 100

function port(text: string): number | 'auto' {
  return text === 'auto' ? text : integer(0, 65_535)(text)
}

/** Where the server listens, and how much it takes: the configuration, with what the command line says over it. */
function serverOptions({ server, admission }: RuntimeConfig, options: ServeOptions) {
  const { host, port: asked, portTries, drain, concurrency, queue } = options
  const ports = asked === 'auto' ? { portTries: autoTries } : given({ port: asked })
  return {
    ...server,
    ...given({ host, drainMs: drain === undefined ? undefined : drain * 1000 }),
    ...ports,
    ...given({ portTries }),
    admission: { ...admission, ...given({ concurrency, queueDepth: queue }) }
  }
}

/** `--workers` over what the configuration says of worker processes. */
function isolation({ isolation: base }: EngineOptions, { workers }: ServeOptions): EngineOptions['isolation'] {
  if (workers === undefined) return base
  return { ...(typeof base === 'object' && base), mode: 'process', workers }
}

/** Events and failures to standard error, one line each. */
function logger({ log = 'text', debug = false }: ServeOptions, session: Session): Logger | undefined {
  if (log === 'off') return undefined
  const write = (level: string) => (fields: object, message?: string) => {
    const time = new Date().toISOString()
    if (log === 'json') session.note(`${JSON.stringify({ time, level, ...fields, message })}\n`)
    else session.note(`${time} ${level.padEnd(5)} ${message ?? ''}\n`)
  }
  const silent = () => {}
  return { debug: debug ? write('debug') : silent, info: write('info'), warn: write('warn'), error: write('error') }
}

/** All models of the configuration, or the one that is named; without either, the one that comes with the package. */
async function chosen(model: string | undefined, options: ServeOptions) {
  const loaded = await configured(model, options.config)
  const { models } = loaded.config
  const all = model === undefined && models.length > 0 ? models : [loaded.request]
  return { loaded, models: all.map((own) => requested(own, options)) }
}

/** Loads it; one without a chat template gets the plain one, where it is the package's own. */
async function load(engine: Engine, request: LoadModelRequest, config: RuntimeConfig, session: Session): Promise<void> {
  if (engine.listModels().some(({ id }) => id === modelId(request))) return
  const embedded = request.model === undefined && request.chatTemplate === undefined
  await engine.loadModel(embedded ? { ...request, chatTemplate: 'plain' } : request, {
    signal: session.signal,
    ...given({ timeoutMs: config.timeouts.loadMs }),
    onProgress: (progress) => session.progress('loading', progress)
  })
  session.clearProgress()
}

async function serve(model: string | undefined, options: ServeOptions, session: Session): Promise<void> {
  const { loaded, models } = await chosen(model, options)
  const { config } = loaded
  const { backend, threads, isa, audit } = options
  const log = logger(options, session)
  await tellConfig(loaded, given({ logger: log }))
  const base = engineOptions(config)
  const engine = await createEngine({
    ...base,
    ...given({ backend, threads, isa, audit, logger: log, isolation: isolation(base, options) }),
    signals: false
  })
  let server: Server | undefined
  try {
    for (const request of models) await load(engine, request, config, session)
    // Fastify is not loaded for any other command.
    const { createServer } = await import('../server/index.js')
    server = await createServer(engine, { ...serverOptions(config, options), ...given({ logger: log }) })
    await server.listen()
    const { url } = server
    if (options.json) session.json({ url, models: engine.listModels().map(({ id }) => id) })
    else session.write(`${engine.listModels().map(({ id }) => id)} at ${url}\n`)
    await ended(session, server)
    session.endedWell()
  } finally {
    await server?.close()
    await engine.dispose()
  }
}

/** Resolves when a signal has come and the server has drained, or when it was told to drain otherwise. */
async function ended({ signal }: Session, server: Server): Promise<void> {
  const told = new Promise<void>((resolve) => {
    if (signal.aborted) resolve()
    signal.addEventListener('abort', () => resolve(), { once: true })
  })
  await Promise.race([told, server.closed])
  await server.drain()
}

export function addServe(program: Command, session: Session): void {
  const command = program
    .command('serve')
    .description(
      "models over HTTP, as OpenAI's API has them; without a model, the configuration's, or the package's own"
    )
    .argument('[model]', modelArgument, filePath)
    .option('--host <address>', 'where to listen; what is not this machine alone needs keys (default: 127.0.0.1)')
    .option('--port <port>', 'the port, 0 for any, or auto for the next free one (default: 8080)', port)
    .option('--port-tries <n>', 'how many ports to try, one after another (default: 1)', integer(1, 1000))
    .option(
      '--workers <n>',
      'so many processes for the engine, so that a crash costs no request anything (default: none; docs/isolation.md)',
      integer(1, 64)
    )
    .option('--concurrency <n>', 'requests that run at a time (default: 10)', integer(1))
    .option('--queue <n>', 'requests that wait (default: 64)', integer(0))
    .option('--audit <file>', 'append to this audit log', filePath)
    .option(
      '--drain <seconds>',
      'let requests end after SIGINT or SIGTERM, for so long (default: 30)',
      number(0, 86_400)
    )
    .addOption(
      new Option('--log <form>', 'what happens, on standard error').choices(['text', 'json', 'off']).default('text')
    )
    .option('--debug', 'log every request')
    .option('--json', 'one line of JSON on standard output when it listens')
  withEngineOptions(command).action(async (model: string | undefined, options: ServeOptions) => {
    await serve(model, options, session)
  })
}

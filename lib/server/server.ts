/** The HTTP server of an engine: its pieces put together, its port, and its end. */
import { createServer as createHttpServer, type Server as HttpServer, maxHeaderSize } from 'node:http'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import fastify from 'fastify'
import { z } from 'zod'
import { pathText } from '../config/fault.js'
import { configInvalid } from '../config/provenance.js'
import { within } from '../engine/maintenance.js'
import type { Engine } from '../engine.js'
import type { EngineError } from '../errors/index.js'
import { catalog, createError } from '../errors/index.js'
import { RecentErrors } from '../live-page/recent-errors.js'
import { native } from '../native.js'
import type { AdmissionStats } from '../resilience/index.js'
import { AdmissionControl } from '../resilience/index.js'
import { callback, validated } from '../schemas.js'
import type { EngineEvent } from '../telemetry/event-catalog.js'
import type { Logger } from '../telemetry/logger.js'
import { isLogger } from '../telemetry/logger.js'
import type { ErrorContext } from '../telemetry/telemetry.js'
import { Telemetry } from '../telemetry/telemetry.js'
import { describeValue } from '../validation.js'
import { adminRoutes } from './admin.js'
import { answerClientErrors } from './client-errors.js'
import { Connections } from './connections.js'
import type { Routes, ServerContext } from './context.js'
import { asEngineError, errorBody, errorHeaders } from './errors.js'
import { addGate, RouteList, refuse } from './gate.js'
import { engineRefusal, healthRoutes } from './health.js'
import { HttpMetrics } from './http-metrics.js'
import { KeyRing } from './keys.js'
import { kvMemory } from './kv-memory.js'
import { type Listening, listenOn } from './listen.js'
import { TokenMeter } from './meter.js'
import { modelRoutes } from './models.js'
import { pageRoutes } from './page.js'
import { Quotas } from './quotas.js'
import { Runs } from './runs.js'
import type { AdmissionSettings, CheckedAdmission, CheckedServer, ServerSettings } from './settings.js'
import { admissionSchema, serverContradictions, serverSchema } from './settings.js'
import { textRoutes } from './texts.js'

/** What no file can say. */
export interface ServerHooks {
  /** Where the server's events and failures are logged; the engine has a logger of its own. */
  logger?: Logger
  onEvent?: (event: EngineEvent) => void
  /** Called once for each failure that the server, not its engine, tells a client. */
  onError?: (error: EngineError, context: ErrorContext) => void
}

export interface ServerOptions extends ServerSettings, ServerHooks {
  /** Which requests run, wait and are refused. */
  admission?: AdmissionSettings
}

export interface ServerStats {
  connections: number
  /** Requests for a text that have come and not ended. */
  requests: number
  admission: AdmissionStats
  /** While requests run; undefined where it is not known yet. */
  tokensPerSecond: number | undefined
}

export interface Server {
  /** Takes a port, once. PORT_IN_USE {tried}, CONFIG_INVALID; LIFECYCLE_INVALID_TRANSITION where it has one, or is closed. */
  listen(): Promise<Listening>
  /** `http://host:port`, once it listens. */
  readonly url: string
  /**
   * New requests are refused from now on (SERVICE_UNAVAILABLE, draining); those that have begun may go on for `ms` milliseconds (default:
   * `drainMs`), then they end with the same error and their partial text. Resolves when the server is closed. The engine stays.
   */
  drain(ms?: number): Promise<void>
  /** Drains without waiting. */
  close(): Promise<void>
  /** Resolves when it is closed, whoever asked for that. */
  readonly closed: Promise<void>
  stats(): ServerStats
}

const hooksSchema = {
  logger: z.custom<Logger>(isLogger).optional().describe('an object with the methods debug, info, warn and error'),
  onEvent: callback<(event: EngineEvent) => void>().describe('a function'),
  onError: callback<(error: EngineError, context: ErrorContext) => void>().describe('a function')
}
const optionsSchema = serverSchema.extend({ admission: admissionSchema.prefault({}), ...hooksSchema })

const routes: readonly Routes[] = [textRoutes, modelRoutes, healthRoutes, adminRoutes, pageRoutes]

/** Milliseconds for the last bytes of replies once all requests have ended. */
const closingMs = 1000

/**
 * A server for an engine, which it does not load, nor dispose of. VALIDATION_ERROR; CONFIG_INVALID for settings that contradict each other
 * (an address that others reach, without keys) and keys that are not there; CONFIG_NOT_FOUND for the file of a key.
 */
export async function createServer(engine: Engine, options: ServerOptions = {}): Promise<Server> {
  const { admission, logger, onEvent, onError, ...settings } = validated(optionsSchema, options, 'createServer')
  const faults = serverContradictions(settings)
  if (faults.length > 0) {
    const told = faults.map(({ path, found, allowed }) => ({
      path: pathText(path),
      found: describeValue(found),
      allowed
    }))
    throw configInvalid(told.map((fault) => ({ ...fault, source: 'option' })))
  }
  const keys = await KeyRing.open(settings.keys)
  const telemetry = new Telemetry({ logger, onEvent, onError, openTelemetry: false })
  telemetry.open()
  const server = new EngineServer(engine, settings, admission, keys, telemetry)
  await server.ready()
  return server
}

class EngineServer implements Server {
  readonly #http: HttpServer
  readonly #app: FastifyInstance
  readonly #context: ServerContext
  readonly #settings: CheckedServer
  /** It takes a port, or has one. */
  #begun = false
  #listening: Listening | undefined
  #closing: Promise<void> | undefined
  readonly #connections: Connections
  readonly closed: Promise<void>
  #tellClosed: () => void = () => {}

  constructor(engine: Engine, settings: CheckedServer, limits: CheckedAdmission, keys: KeyRing, telemetry: Telemetry) {
    this.#settings = settings
    this.closed = new Promise((resolve) => {
      this.#tellClosed = resolve
    })
    const quotas = new Quotas(keys, limits.perClient)
    const meter = new TokenMeter()
    const admission: AdmissionControl = new AdmissionControl(limits, {
      memory: kvMemory(
        () => engine.listModels().reduce((sum, model) => sum + model.idlePrefixBytes, native().availableMemory()),
        () => admission.stats().kvBytesFilled
      ),
      rate: () => meter.rate,
      limitsOf: (client) => quotas.limitsOf(client)
    })
    const metrics = new HttpMetrics()
    metrics.follow(() => ({ connections: this.#connections.size, admission: admission.stats(), rate: meter.rate }))
    const context: ServerContext = {
      engine,
      settings,
      admission,
      limits,
      quotas,
      meter,
      metrics,
      failures: new RecentErrors(),
      telemetry,
      runs: new Runs(),
      inHostMemory: engine.backend.name === 'cpu',
      began: Math.floor(Date.now() / 1000),
      precheck: (client) => engineRefusal(engine) ?? quotas.precheck(client) ?? admission.precheck(client),
      tell: (error, requestId) => tell(context, error, requestId),
      drain: (ms) => this.drain(ms)
    }
    this.#context = context
    this.#http = httpServer(settings, context)
    this.#connections = new Connections(this.#http, settings.limits.idleMs)
    answerClientErrors(this.#http, this.#connections, settings.limits, (error) => {
      metrics.clientErrors.add(1, { code: error.code })
      context.tell(error, null)
    })
    this.#app = assembled(this.#http, keys, context)
  }

  /** Until then it cannot answer. */
  async ready(): Promise<void> {
    await this.#app.ready()
  }

  async listen(): Promise<Listening> {
    if (this.#begun || this.#closing) throw listenedError(this.#closing !== undefined)
    this.#begun = true
    const { host, port, portTries } = this.#settings
    const { telemetry, failures } = this.#context
    const listening = await listenOn(this.#http, host, port, portTries).catch((error: unknown) => {
      this.#begun = false
      throw error
    })
    failures.listen()
    this.#listening = listening
    const { tried, port: bound } = listening
    if (tried.length > 1) {
      const text = `port ${tried[0]} was not free, the server has ${bound}`
      telemetry.event('port_moved', text, { tried, bound })
    }
    telemetry.event('server_listening', `the server takes requests at ${this.url}`, { url: this.url })
    return listening
  }

  get url(): string {
    const { host, port } = this.#listening ?? this.#settings
    return `http://${host.includes(':') ? `[${host}]` : host}:${port}`
  }

  async drain(ms: number = this.#settings.drainMs): Promise<void> {
    const { admission, runs, telemetry } = this.#context
    if (!admission.draining) {
      telemetry.event('server_draining', `the server drains for at most ${ms} ms`, { ms, requests: runs.size })
      admission.drain()
    }
    if (!(await within(ms, runs.idle()))) runs.end(drainedError(ms, runs.size))
    await runs.idle()
    this.#closing ??= this.#close()
    await this.#closing
  }

  close(): Promise<void> {
    return this.drain(0)
  }

  stats(): ServerStats {
    const { runs, admission, meter } = this.#context
    return {
      connections: this.#connections.size,
      requests: runs.size,
      admission: admission.stats(),
      tokensPerSecond: meter.rate
    }
  }

  async #close(): Promise<void> {
    const http = this.#http
    if (http.listening) {
      const closed = new Promise<void>((resolve) => http.close(() => resolve()))
      http.closeIdleConnections()
      if (!(await within(closingMs, closed))) http.closeAllConnections()
      await closed
    }
    await this.#app.close()
    this.#context.failures.close()
    await this.#context.telemetry.close()
    this.#tellClosed()
  }
}

function httpServer({ limits }: CheckedServer, { metrics }: ServerContext): HttpServer {
  const { headerMs, bodyMs, idleMs, connections } = limits
  const http = createHttpServer({
    // Node's own answer would have no body; gate.ts gives one.
    requireHostHeader: false,
    headersTimeout: headerMs,
    requestTimeout: headerMs + bodyMs,
    keepAliveTimeout: idleMs,
    connectionsCheckingInterval: Math.ceil(Math.min(5000, Math.max(20, Math.min(headerMs, bodyMs) / 4)))
  })
  http.maxConnections = connections
  http.on('drop', () => metrics.dropped.add())
  // The same of what a client expects: the request is answered like any other.
  http.on('checkExpectation', (request, response) => http.emit('request', request, response))
  return http
}

function assembled(http: HttpServer, keys: KeyRing, context: ServerContext): FastifyInstance {
  const { settings, metrics } = context
  let requests = 0
  const app = fastify({
    logger: false,
    bodyLimit: settings.limits.bodyBytes,
    onProtoPoisoning: 'error',
    onConstructorPoisoning: 'error',
    clientErrorHandler: () => {},
    // What no route can be looked up for, as an address with a broken escape. A long name is left to the route, which says that nothing has it.
    frameworkErrors: (error, request, reply) =>
      refuse(context, request, reply, asEngineError(error, request, settings.limits.bodyBytes)),
    routerOptions: { maxParamLength: maxHeaderSize },
    genReqId: () => `req-${context.began.toString(36)}-${(++requests).toString(36)}`,
    serverFactory: (handler) => http.on('request', handler)
  })
  app.removeContentTypeParser('text/plain')
  const list = new RouteList()
  list.follow(app)
  countRequests(app, metrics)
  addGate(app, keys, context)
  const fail = (error: unknown, request: FastifyRequest): EngineError => {
    const failure = asEngineError(error, request, settings.limits.bodyBytes)
    context.tell(failure, request.id)
    return failure
  }
  app.setErrorHandler((error, request, reply) => {
    const failure = fail(error, request)
    reply.code(failure.httpStatus).headers(errorHeaders(failure)).send(errorBody(failure, request.id))
  })
  app.setNotFoundHandler((request) => list.notFound(request))
  for (const add of routes) add(app, context)
  return app
}

/** Also those whose client did not wait for the end of the reply. */
function countRequests(app: FastifyInstance, { requests, requestTime }: HttpMetrics): void {
  app.addHook('onRequest', ({ method, routeOptions }, { raw }, done) => {
    const began = performance.now()
    const { url: route = 'none' } = routeOptions
    raw.once('close', () => {
      const status = raw.writableFinished ? raw.statusCode : catalog.CANCELLED.httpStatus
      requests.add(1, { route, method, status: String(status) })
      requestTime.observe((performance.now() - began) / 1000, { route })
    })
    done()
  })
}

/** A failure that a client got: counted among the last ones, and logged where the engine has not done it. */
function tell({ failures, metrics, telemetry }: ServerContext, error: EngineError, requestId: string | null): void {
  const { code, message, details } = error
  if (code === 'CANCELLED') return
  failures.add(error)
  if (code === 'SERVICE_UNAVAILABLE' || code === 'RATE_LIMITED') {
    const { reason, client, retryAfterSeconds } = details
    metrics.refused.add(1, { reason: String(reason) })
    telemetry.event('request_refused', message, { requestId, code, reason, client, retryAfterSeconds })
  } else if (ownCodes.has(code) || isOwnDeadline(error)) {
    telemetry.error(error, requestId === null ? {} : { requestId })
  }
}

/** Of failures that come up in the server itself. */
const ownCodes: ReadonlySet<string> = new Set([
  'REQUEST_PARSE_FAILED',
  'NOT_FOUND',
  'UNAUTHORIZED',
  'AUTH_TOKEN_EXPIRED',
  'FORBIDDEN',
  'REQUEST_TOO_LARGE',
  'REQUEST_TIMEOUT',
  'RUNTIME_INVARIANT_VIOLATED'
])

/** Of the server's deadlines the engine has heard as an abort; its own have the name of its method. */
const isOwnDeadline = ({ code, details: { method } }: EngineError): boolean =>
  code === 'INFERENCE_TIMEOUT' && typeof method === 'string' && method.startsWith('POST ')

const listenedError = (closed: boolean): EngineError => {
  const [from, to] = [closed ? 'closed' : 'listening', 'listening']
  return createError('LIFECYCLE_INVALID_TRANSITION', `the server is ${from}: it listens once`, {
    from,
    to,
    allowed: []
  })
}

const drainedError = (ms: number, requests: number): EngineError =>
  createError('SERVICE_UNAVAILABLE', `the server shuts down, and the ${ms} ms for what ran are over`, {
    reason: 'draining',
    current: requests,
    limit: 0,
    retryAfterSeconds: 30,
    resourceInfo: { required: 1, available: 0, current: requests, limit: 0, unit: 'requests' }
  })

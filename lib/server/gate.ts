/** What is looked at before anything of a request is read but its head: where it comes from, who it is, whether there is room for it. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { EngineError } from '../errors/index.js'
import { createError } from '../errors/index.js'
import { refusal } from '../validation.js'
import type { ServerContext } from './context.js'
import { errorBody, errorHeaders, jsonType } from './errors.js'
import type { KeyRing } from './keys.js'
import { checkAdmin, forbidden } from './keys.js'
import { isLoopback } from './settings.js'

export function addGate(app: FastifyInstance, keys: KeyRing, context: ServerContext): void {
  app.decorateRequest('caller', null as never)
  app.addHook('onRequest', (request, reply, done) => {
    reply.header('x-request-id', request.id)
    identify(request, keys)
    const refused = request.routeOptions.config.text ? context.precheck(request.caller.client) : undefined
    if (refused) refuse(context, request, reply, refused)
    else done()
  })
  // A client that keeps its connection would keep the server from ending.
  app.addHook('onSend', (_, reply, payload, done) => {
    if (context.admission.draining) reply.header('connection', 'close')
    done(null, payload)
  })
}

/** Who asks, and whether it may: VALIDATION_ERROR, FORBIDDEN, and what KeyRing.authenticate throws. */
function identify(request: FastifyRequest, keys: KeyRing): void {
  if (request.headers.host === undefined && request.raw.httpVersion === '1.1') {
    throw refusal('a request', 'host', 'not there', 'a Host header, which HTTP/1.1 asks for')
  }
  const { access = 'key' } = request.routeOptions.config
  if (keys.size === 0) checkOrigin(request)
  if (access === 'open') return
  const key = keys.size === 0 ? undefined : keys.authenticate(request.headers.authorization)
  request.caller = { key, client: key?.id ?? request.ip }
  if (access === 'admin') checkAdmin(request.caller)
}

/** What the error handler does, by itself: under an overload most requests end here, and the way through the framework costs more than they do. */
export function refuse(context: ServerContext, { id }: FastifyRequest, reply: FastifyReply, error: EngineError): void {
  context.tell(error, id)
  const body = JSON.stringify(errorBody(error, id))
  reply.hijack()
  reply.raw
    .writeHead(error.httpStatus, {
      'x-request-id': id,
      ...errorHeaders(error),
      'content-type': jsonType,
      'content-length': Buffer.byteLength(body),
      ...(context.admission.draining && { connection: 'close' })
    })
    .end(body)
}

/** Without keys, whatever a page in a browser of this machine sends must not count as its user's. FORBIDDEN. */
function checkOrigin({ headers: { host = '', origin } }: FastifyRequest): void {
  const name = host.replace(/:\d+$/, '')
  if (!isLoopback(name)) {
    throw forbidden(undefined, 'a loopback name as host', `without keys, ${name || 'no host'} is not served`)
  }
  if (origin !== undefined && origin !== `http://${host}`) {
    throw forbidden(undefined, 'a page of this server as origin', `without keys, pages of ${origin} are not served`)
  }
}

/** The addresses that there are, for those who miss them. */
export class RouteList {
  readonly #methods = new Map<string, Set<string>>()

  follow(app: FastifyInstance): void {
    app.addHook('onRoute', ({ url, method }) => {
      const methods = this.#methods.get(url) ?? new Set<string>()
      for (const own of [method].flat()) methods.add(own)
      this.#methods.set(url, methods)
    })
  }

  /** NOT_FOUND {method, path, allow}. */
  notFound({ method, url }: FastifyRequest): never {
    const path = url.replace(/[?#].*/s, '').slice(0, 200)
    const allow = [...(this.#methods.get(path) ?? [])]
    const text = allow.length > 0 ? `${path} has no ${method}, only ${allow.join(', ')}` : `there is nothing at ${path}`
    throw createError('NOT_FOUND', text, { method, path, allow })
  }
}

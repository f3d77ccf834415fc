/** `/v1/chat/completions` and `/v1/completions`: a text in one piece, or as a stream of events. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { EngineError } from '../errors/index.js'
import type { FinalItem, TokenItem } from '../generation/items.js'
import { callerOf, type Routes, type ServerContext } from './context.js'
import { asEngineError } from './errors.js'
import type { ReplyHead, TokenLogprobs } from './openai-reply.js'
import { Chunks, namedLogprobs, wholeReply } from './openai-reply.js'
import type { Form, TextRequest } from './openai-request.js'
import { inTermsOf, parseRequest } from './openai-request.js'
import { EventStream } from './sse.js'
import { TextRun } from './text-run.js'

/** Milliseconds between two comments on a request's place in line. */
const positionInterval = 1000

export const textRoutes: Routes = (app, context) => {
  const route = (url: string, form: Form, prefix: string): void => {
    app.post(url, { config: { text: true } }, (request, reply) =>
      answer(context, { form, method: `POST ${url}`, id: `${prefix}-${request.id}` }, request, reply)
    )
  }
  route('/v1/chat/completions', 'chat', 'chatcmpl')
  route('/v1/completions', 'completion', 'cmpl')
}

interface Asked {
  form: Form
  method: string
  id: string
}

async function answer(
  context: ServerContext,
  { form, method, id }: Asked,
  request: FastifyRequest,
  reply: FastifyReply
) {
  const { body } = request
  // Of a request that waits behind another one on its connection the reply has none yet, and hears of nothing.
  const { socket } = request.raw
  let run: TextRun | undefined
  try {
    const caller = callerOf(request)
    // Others may have taken the last place while its body came.
    const refused = context.precheck(caller.client)
    if (refused) throw refused
    const asked = parseRequest(form, body)
    run = new TextRun(context, caller, asked, { id: request.id, method })
    socket.once('close', run.abandon)
    if (socket.destroyed) run.abandon()
    const head = { id, created: Math.floor(Date.now() / 1000), model: asked.generation.model }
    if (asked.stream) return await stream(context, run, asked, head, request, reply)
    return await whole(context, run, asked, head, reply)
  } catch (error) {
    throw inTermsOf(body, error)
  } finally {
    if (run) socket.removeListener('close', run.abandon)
    run?.end()
  }
}

async function whole(context: ServerContext, run: TextRun, asked: TextRequest, head: ReplyHead, reply: FastifyReply) {
  reply.headers(await turn(run))
  const logprobs: TokenLogprobs[] = []
  let text = ''
  let final: FinalItem | undefined
  for await (const item of run.items()) {
    text += item.text
    if (item.finishReason !== undefined) final = item
    else if (item.logprob !== undefined) logprobs.push(await named(context, head.model, item))
  }
  return wholeReply(asked.form, head, text, final!, asked.generation.logprobs ? logprobs : undefined)
}

/** The reply's head waits for the first token, so that what fails before has a status of its own; unless the client wants to see the queue. */
async function stream(
  context: ServerContext,
  run: TextRun,
  asked: TextRequest,
  head: ReplyHead,
  request: FastifyRequest,
  reply: FastifyReply
): Promise<void> {
  const { limits } = context.settings
  const open = (headers: Record<string, string>): EventStream => {
    const own = Object.entries(reply.getHeaders()).map(([name, value]) => [name, String(value)])
    reply.hijack()
    const all = { ...Object.fromEntries(own), ...headers }
    return new EventStream(reply.raw, { headers: all, ended: run.ending, stallMs: limits.idleMs })
  }
  let events = request.headers['x-queue-events'] === '1' ? open({}) : undefined
  try {
    const waited = await (events ? watchedTurn(run, events) : turn(run))
    const chunks = new Chunks(asked.form, head, asked.includeUsage)
    for await (const item of run.items()) {
      const logprob = item.logprob === undefined ? undefined : await named(context, head.model, item)
      events ??= open(waited)
      for (const chunk of chunks.of(item, logprob)) await events.send(chunk)
    }
    events?.end()
  } catch (error) {
    if (!events) throw error
    const failure = inTermsOf(request.body, asEngineError(error, request, limits.bodyBytes)) as EngineError
    context.tell(failure, request.id)
    events.fail(failure, request.id)
  }
}

/** Waits for its turn; headers that say how long it was, and at which place it had to begin to wait. */
async function turn(run: TextRun): Promise<Record<string, string>> {
  const admitted = run.admit()
  const position = run.position()
  const queuedMs = await admitted
  return { 'x-queue-position': String(position), 'x-queue-ms': String(Math.round(queuedMs)) }
}

/** The same with a comment on its place now and then. */
async function watchedTurn(run: TextRun, events: EventStream): Promise<Record<string, string>> {
  const waiting = turn(run)
  const tell = (): void => {
    const position = run.position()
    if (position > 0) events.comment(`queued position=${position}`)
  }
  tell()
  const timer = setInterval(tell, positionInterval)
  try {
    return await waiting
  } finally {
    clearInterval(timer)
  }
}

const named = ({ engine }: ServerContext, model: string, item: TokenItem): Promise<TokenLogprobs> =>
  namedLogprobs(item, (tokens) => engine.tokenBytes({ model, tokens }))

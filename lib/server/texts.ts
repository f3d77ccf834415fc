/** `/v1/chat/completions` and `/v1/completions`: a text in one piece, or as a stream of events. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { EngineError } from '../errors/index.js'
import type { FinalItem, GenerationItem, TokenItem } from '../generation/items.js'
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
  let run: TextRun | undefined
  try {
    const asked = parseRequest(form, body)
    run = new TextRun(context, callerOf(request), asked, { id: request.id, method })
    reply.raw.once('close', run.abandon)
    const head = { id, created: Math.floor(Date.now() / 1000), model: asked.generation.model }
    if (asked.stream) return await stream(context, run, asked, head, request, reply)
    return await whole(context, run, asked, head, reply)
  } catch (error) {
    throw inTermsOf(body, error)
  } finally {
    if (run) reply.raw.removeListener('close', run.abandon)
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
  const open = (headers: Record<string, string>): EventStream => {
    const own = Object.entries(reply.getHeaders()).map(([name, value]) => [name, String(value)])
    reply.hijack()
    return new EventStream(reply.raw, { ...Object.fromEntries(own), ...headers })
  }
  let events = request.headers['x-queue-events'] === '1' ? open({}) : undefined
  try {
    const waited = await (events ? watchedTurn(run, events) : turn(run))
    const items = run.items()
    const first = await items.next()
    events ??= open(waited)
    if (!first.done) await sendItems(context, events, asked, head, first.value, items)
    await events.end()
  } catch (error) {
    if (!events) throw error
    const failure = inTermsOf(
      request.body,
      asEngineError(error, request, context.settings.limits.bodyBytes)
    ) as EngineError
    context.tell(failure, request.id)
    await events.fail(failure, request.id)
  }
}

async function sendItems(
  context: ServerContext,
  events: EventStream,
  asked: TextRequest,
  head: ReplyHead,
  first: GenerationItem,
  rest: AsyncGenerator<GenerationItem>
): Promise<void> {
  const chunks = new Chunks(asked.form, head, asked.includeUsage)
  const role = chunks.role()
  if (role !== undefined) await events.send(role)
  const send = async (item: GenerationItem): Promise<void> => {
    const logprobs = item.logprob === undefined ? undefined : [await named(context, head.model, item)]
    if (item.text !== '' || logprobs) await events.send(chunks.text(item.text, logprobs))
    if (item.finishReason === undefined) return
    await events.send(chunks.last(item))
    const usage = chunks.usage(item)
    if (usage !== undefined) await events.send(usage)
  }
  await send(first)
  for await (const item of rest) await send(item)
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
    if (position > 0) void events.comment(`queued position=${position}`)
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

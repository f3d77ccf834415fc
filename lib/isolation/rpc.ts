/** JSON-RPC 2.0 over a channel of frames, in both directions: calls that can be cancelled, notifications, and tokens of streams. */
import type { Duplex } from 'node:stream'
import type { EngineError } from '../errors/index.js'
import { createError, engineCodes, isEngineError, messageOf } from '../errors/index.js'
import { validationError } from '../validation.js'
import { encodeFrame, FrameDecoder, frameKinds, longestPayload, protocolError } from './frames.js'
import { pack, unpack } from './values.js'

export interface RpcCallContext {
  /** Aborts when the caller cancels. */
  signal: AbortSignal
  /** The call's id, for what is told of it meanwhile. */
  id: number
}

type Method = (params: never, context: RpcCallContext) => unknown

export interface RpcOptions {
  /** WORKER_PROTOCOL_ERROR, once: nothing that comes later is read. */
  onFault(error: EngineError): void
  /** Bytes of items (tokens.ts) of a stream. */
  onTokens?(stream: number, bytes: Buffer): void
}

interface Message {
  jsonrpc?: unknown
  id?: unknown
  method?: unknown
  params?: unknown
  result?: unknown
  error?: { code?: unknown; message?: unknown; data?: unknown }
}

interface Pending {
  resolve(result: unknown): void
  reject(error: unknown): void
}

const cancelMethod = '$/cancel'

export class RpcPeer {
  readonly #channel: Duplex
  readonly #options: RpcOptions
  readonly #decoder = new FrameDecoder()
  readonly #methods = new Map<string, Method>()
  readonly #pending = new Map<number, Pending>()
  readonly #running = new Map<number, AbortController>()
  /** Attachments that the message after them names. */
  readonly #attachments = new Map<number, Buffer>()
  #lastId = 0
  #lastAttachment = 0
  #closed: { reason: unknown } | undefined

  constructor(channel: Duplex, options: RpcOptions) {
    this.#channel = channel
    this.#options = options
    channel.on('data', (piece: Buffer) => this.#read(piece))
    // Whoever watches the process tells why it broke.
    channel.on('error', () => {})
  }

  /** Whether the other side has not taken yet what it was sent. */
  get backlogged(): boolean {
    return this.#channel.writableLength > 0
  }

  /** What a method, or a notification, of that name does; what it throws is the caller's error. */
  handle<Params>(method: string, run: (params: Params, context: RpcCallContext) => unknown): void {
    this.#methods.set(method, run as Method)
  }

  /**
   * The method's result. `signal` asks the other side to cancel: the answer is then its error. Rejects with that error, with the reason of
   * `close`, and with VALIDATION_ERROR for what has no form on the wire. `onId` hears of the id before anything comes back.
   */
  async call(
    method: string,
    params: unknown,
    { signal, onId }: { signal?: AbortSignal | undefined; onId?(id: number): void } = {}
  ): Promise<unknown> {
    if (this.#closed) throw this.#closed.reason
    const id = ++this.#lastId
    onId?.(id)
    const cancel = (): void => this.notify(cancelMethod, { id })
    try {
      return await new Promise((resolve, reject) => {
        this.#pending.set(id, { resolve, reject })
        this.#send({ jsonrpc: '2.0', id, method, params }, method)
        if (signal?.aborted) cancel()
        else signal?.addEventListener('abort', cancel, { once: true })
      })
    } finally {
      this.#pending.delete(id)
      signal?.removeEventListener('abort', cancel)
    }
  }

  /** Tells the other side, which answers nothing. */
  notify(method: string, params: unknown): void {
    if (!this.#closed) this.#send({ jsonrpc: '2.0', method, params }, method)
  }

  tokens(stream: number, bytes: Buffer): void {
    if (!this.#closed) this.#write(frameKinds.tokens, stream, bytes)
  }

  /** Ends all calls that wait with `reason`; nothing is sent or read any more. */
  close(reason: unknown): void {
    if (this.#closed) return
    this.#closed = { reason }
    for (const { reject } of this.#pending.values()) reject(reason)
    for (const controller of this.#running.values()) controller.abort(reason)
  }

  #send(message: object, method: string): void {
    const attachments: [number, Buffer][] = []
    const attach = (bytes: Buffer): number => {
      this.#lastAttachment = (this.#lastAttachment % 0xffffffff) + 1
      attachments.push([this.#lastAttachment, bytes])
      return this.#lastAttachment
    }
    let payload: Buffer
    try {
      payload = Buffer.from(JSON.stringify(packMessage(message as Message, attach)))
    } catch (error) {
      throw isEngineError(error)
        ? error
        : validationError(method, 'the argument', 'an object that cannot be read', 'a plain object', error)
    }
    const most = longestPayload[frameKinds.message]!
    const longest = longestPayload[frameKinds.attachment]!
    if (payload.length > most || attachments.some(([, bytes]) => bytes.length > longest)) {
      const allowed = `at most ${most} bytes, and arrays of at most ${longest}`
      throw validationError(method, 'the argument', `${payload.length} bytes`, allowed)
    }
    for (const [id, bytes] of attachments) this.#write(frameKinds.attachment, id, bytes)
    this.#write(frameKinds.message, 0, payload)
  }

  #write(kind: number, id: number, payload: Buffer): void {
    if (!this.#channel.writable) return
    for (const bytes of encodeFrame({ kind, id, payload })) this.#channel.write(bytes)
  }

  #read(piece: Buffer): void {
    if (this.#closed) return
    try {
      for (const { kind, id, payload } of this.#decoder.push(piece)) {
        if (kind === frameKinds.attachment) this.#attachments.set(id, payload)
        else if (kind === frameKinds.tokens) this.#options.onTokens?.(id, payload)
        else this.#receive(payload)
        if (this.#closed) return
      }
    } catch (error) {
      const fault = faultOf(error)
      this.close(fault)
      this.#options.onFault(fault)
    }
  }

  #receive(payload: Buffer): void {
    let message: Message
    try {
      message = JSON.parse(payload.toString())
    } catch {
      throw protocolError('a message that is no JSON', frameKinds.message, payload.length)
    }
    if (typeof message !== 'object' || message === null || message.jsonrpc !== '2.0') {
      throw protocolError('a message that is not JSON-RPC 2.0', frameKinds.message, payload.length)
    }
    const open = (value: unknown): unknown => unpack(value, (id) => this.#attachments.get(id))
    const { id, method } = message
    if (typeof method === 'string') void this.#run(method, open(message.params), id)
    else if (typeof id === 'number') this.#settle(id, message, open)
    else throw protocolError('a message of neither a call nor an answer', frameKinds.message, payload.length)
    this.#attachments.clear()
  }

  #settle(id: number, { result, error }: Message, open: (value: unknown) => unknown): void {
    // An answer that nobody waits for any more.
    const pending = this.#pending.get(id)
    if (error === undefined) pending?.resolve(open(result))
    else pending?.reject(errorOf(error, open))
  }

  async #run(method: string, params: unknown, id: unknown): Promise<void> {
    if (method === cancelMethod) {
      this.#running.get((params as { id?: number } | undefined)?.id ?? 0)?.abort()
      return
    }
    const handler = this.#methods.get(method)
    const controller = new AbortController()
    if (typeof id === 'number') this.#running.set(id, controller)
    try {
      if (!handler) throw createError('UNKNOWN_ERROR', `no method ${method}`, { source: 'worker', method })
      const context = { signal: controller.signal, id: typeof id === 'number' ? id : 0 }
      const result = await handler(params as never, context)
      if (typeof id === 'number') this.#answer({ jsonrpc: '2.0', id, result: result ?? null }, id, method)
    } catch (error) {
      if (typeof id === 'number') this.#answer({ jsonrpc: '2.0', id, error }, id, method)
      // Of a notification nobody waits for an answer: what it does not understand is the channel's fault.
      else if (!this.#closed) this.#options.onFault(faultOf(error))
    } finally {
      if (typeof id === 'number') this.#running.delete(id)
    }
  }

  #answer(message: object, id: number, method: string): void {
    if (this.#closed) return
    try {
      this.#send(message, method)
    } catch (error) {
      this.#send({ jsonrpc: '2.0', id, error }, method)
    }
  }
}

/** What a handler could not make sense of, as the channel's fault. */
const faultOf = (error: unknown): EngineError =>
  isEngineError(error) ? error : protocolError(messageOf(error), null, null)

/** A message with its parameters, result or error in the form of the wire. */
function packMessage({ error, ...message }: Message & { error?: unknown }, attach: (bytes: Buffer) => number): unknown {
  const packed = { ...message }
  if ('params' in message) packed.params = pack(message.params, attach)
  if ('result' in message) packed.result = pack(message.result, attach)
  if (error === undefined) return packed
  const code = isEngineError(error) ? error.jsonRpcCode : engineCodes.InternalError
  return { ...packed, error: { code, message: messageOf(error), data: pack(error, attach) } }
}

function errorOf(error: NonNullable<Message['error']>, open: (value: unknown) => unknown): unknown {
  const known = open(error.data)
  if (isEngineError(known)) return known
  const details = { source: 'worker', foreignCode: error.code }
  return createError('UNKNOWN_ERROR', String(error.message), details, { cause: error })
}

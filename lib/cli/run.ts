/** `tiered-moe run`: streams text, then tells how fast it was. */
import { readFile } from 'node:fs/promises'
import { createInterface } from 'node:readline/promises'
import { text as readAll } from 'node:stream/consumers'
import { type Command, Option } from 'commander'
import { createError, readFailed } from '../errors/index.js'
import type { ChatMessage, FinalItem, GenerationRequest, ResponseFormat } from '../index.js'
import { writeTrace } from '../tiers/trace.js'
import { filePath, given, integer, modelArgument, number, several } from './arguments.js'
import { type EngineChoices, type OpenModel, peakMemory, withEngineOptions } from './engine.js'
import { formatBytes, formatMilliseconds, formatRate } from './format.js'
import type { Session } from './session.js'

/** What goes into the request as it is. */
type Sampling = Pick<
  GenerationRequest,
  | 'maxTokens'
  | 'temperature'
  | 'topK'
  | 'topP'
  | 'minP'
  | 'repetitionPenalty'
  | 'seed'
  | 'stop'
  | 'ignoreEos'
  | 'responseFormat'
>

interface RunOptions extends Omit<EngineChoices, 'recordTrace'>, Sampling {
  prompt?: string
  interactive?: boolean
  recordTrace?: string
  jsonSchema?: string
  json?: boolean
}

type Source = Pick<GenerationRequest, 'prompt' | 'messages'>

interface Answer {
  text: string
  final: FinalItem | undefined
  /** From the request to the first token. */
  firstTokenMs: number
  /** After the first token. */
  tokensPerSecond: number
}

/** Streams one generation to standard output. */
async function answer(open: OpenModel, source: Source, options: RunOptions, session: Session): Promise<Answer> {
  const { maxTokens, temperature, topK, topP, minP, repetitionPenalty, seed, stop, ignoreEos, responseFormat, json } =
    options
  const sampling = {
    maxTokens,
    temperature,
    topK,
    topP,
    minP,
    repetitionPenalty,
    seed,
    stop,
    ignoreEos,
    responseFormat
  }
  const started = performance.now()
  let first = 0
  let last = 0
  let tokens = 0
  let text = ''
  let final: FinalItem | undefined
  const request: GenerationRequest = { model: open.id, ...source, ...given(sampling) }
  const generator = open.engine.createGenerator(request, { signal: session.signal })
  for await (const item of generator) {
    text += item.text
    if (item.finishReason === undefined) {
      last = performance.now()
      if (tokens++ === 0) first = last
      if (json) session.json({ text: item.text, token: item.token })
    } else {
      final = item
    }
    if (!json) session.write(item.text)
  }
  const decoding = (last - first) / 1000
  return {
    text,
    final,
    firstTokenMs: first - started,
    tokensPerSecond: tokens > 1 && decoding > 0 ? (tokens - 1) / decoding : 0
  }
}

function report(
  { firstTokenMs, tokensPerSecond, final, text }: Answer,
  open: OpenModel,
  json: boolean,
  session: Session
) {
  const peakBytes = peakMemory()
  if (json) {
    const { loadMs } = open
    session.json({ ...final, timing: { loadMs, firstTokenMs, tokensPerSecond }, peakMemoryBytes: peakBytes })
    return
  }
  const figures = [
    `load ${formatMilliseconds(open.loadMs)}`,
    `first token ${formatMilliseconds(firstTokenMs)}`,
    formatRate(tokensPerSecond),
    `peak memory ${formatBytes(peakBytes)}`
  ]
  session.write(`${text.endsWith('\n') ? '' : '\n'}[${figures.join(', ')}]\n`)
}

/** A conversation where the model has a chat template, else one continuation per line. */
async function converse(open: OpenModel, options: RunOptions, session: Session): Promise<void> {
  const terminal = process.stdin.isTTY === true
  const lines = createInterface({ input: process.stdin, terminal, ...(terminal ? { output: process.stderr } : {}) })
  session.signal.addEventListener('abort', () => lines.close(), { once: true })
  // a terminal in raw mode gives Ctrl-C to readline, not to the process
  lines.on('SIGINT', () => process.kill(process.pid, 'SIGINT'))
  const chat = open.descriptor.hasChatTemplate
  const history: ChatMessage[] = []
  if (terminal) {
    session.note(`${open.id}: ${chat ? 'a conversation' : 'each line is continued'}; Ctrl-D ends it\n`)
    lines.setPrompt('> ')
    lines.prompt()
  }
  for await (const line of lines) {
    if (line.trim() !== '') {
      if (chat) history.push({ role: 'user', content: line })
      const done = await answer(open, chat ? { messages: history } : { prompt: line }, options, session)
      if (chat) history.push({ role: 'assistant', content: done.text })
      report(done, open, options.json === true, session)
    }
    if (terminal) lines.prompt()
  }
  session.signal.throwIfAborted()
}

async function readPrompt(options: RunOptions, { signal }: Session): Promise<string> {
  // A signal ends the reading too, and not only when whoever writes has ended.
  signal.addEventListener('abort', () => process.stdin.destroy(), { once: true })
  const prompt = options.prompt ?? (process.stdin.isTTY ? '' : await readAll(process.stdin))
  if (prompt !== '') return prompt
  throw createError('VALIDATION_ERROR', 'run: the prompt is empty', {
    path: 'prompt',
    allowed: 'a text after --prompt or on standard input, or --interactive'
  })
}

/** The form that a file with a JSON schema asks for. FILE_READ_FAILED, VALIDATION_ERROR. */
async function readSchema(path: string): Promise<ResponseFormat> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    throw readFailed(path, error)
  })
  try {
    return { type: 'json_schema', schema: JSON.parse(text) }
  } catch (cause) {
    const details = { path: 'jsonSchema', allowed: 'a file with a JSON schema' }
    throw createError('VALIDATION_ERROR', `run: --json-schema ${path} is not JSON`, details, { cause })
  }
}

/** VALIDATION_ERROR before anything is generated, where nothing is asked of an expert cache. */
function checkRecording({ engine, id }: OpenModel): void {
  if (engine.modelStats(id).experts) return
  const details = { path: 'recordTrace', allowed: 'a model whose experts are kept under a budget: give --memory' }
  throw createError('VALIDATION_ERROR', 'run: --record-trace without --memory: all experts are in memory', details)
}

export function addRun(program: Command, session: Session): void {
  const command = program
    .command('run')
    .description('generate text; without a model, with the one that comes with the package')
    .argument('[model]', modelArgument, filePath)
    .option('-p, --prompt <text>', 'text to continue (default: standard input)')
    .option('-i, --interactive', 'read prompts line by line')
    .option('-n, --max-tokens <n>', 'tokens to generate at most', integer(1), 256)
    .option('--temperature <t>', '0 always takes the most likely token', number(0, 100))
    .option('--top-k <k>', 'the k most likely tokens only, 0 = off', integer(0))
    .option('--top-p <p>', 'the most likely tokens of this probability together, 1 = off', number(0, 1))
    .option('--min-p <p>', 'tokens at least this likely against the best, 0 = off', number(0, 1))
    .option('--repetition-penalty <x>', 'against repeating recent tokens, 1 = off', number(0, 100))
    .option('--seed <n>', 'the same seed gives the same text (default: random)', integer(0))
    .option('--stop <text>', 'end before this text; may be given several times', several)
    .option('--ignore-eos', 'go on after an end-of-text token')
    .addOption(
      new Option(
        '--latency-budget <ms>',
        'instead of --tier-set: each answer uses the largest that is predicted to take at most so long a token'
      )
        .argParser(number(1e-6, 1e9))
        .conflicts('tierSet')
    )
    .option('--json-schema <file>', 'generate JSON that this schema accepts: docs/structured-output.md', filePath)
    .option('--audit <file>', 'append to this audit log', filePath)
    .option(
      '--drain <seconds>',
      'let the answer end after SIGINT or SIGTERM, for so long (default: stop)',
      number(0, 86_400)
    )
    .option('--record-trace <file>', 'write what was asked of the expert cache (with --memory): see simulate', filePath)
    .option('--json', 'one JSON object per line: each token, then the figures')
  withEngineOptions(command).action(async (model: string | undefined, { jsonSchema, ...choices }: RunOptions) => {
    const options = { ...choices, ...(jsonSchema !== undefined && { responseFormat: await readSchema(jsonSchema) }) }
    const interactive = options.interactive === true || (options.prompt === undefined && process.stdin.isTTY === true)
    const prompt = interactive ? '' : await readPrompt(options, session)
    const recording = { ...options, recordTrace: options.recordTrace !== undefined }
    const { withModel } = await import('./with-model.js')
    await withModel(model, recording, session, async (open) => {
      if (options.recordTrace !== undefined) checkRecording(open)
      if (interactive) {
        await converse(open, options, session)
      } else {
        if (process.stdout.isTTY && !options.json) session.write(prompt)
        report(await answer(open, { prompt }, options, session), open, options.json === true, session)
      }
      if (options.recordTrace !== undefined) await writeTrace(options.recordTrace, open.engine.expertTrace(open.id))
    })
  })
}

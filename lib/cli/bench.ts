/** `tiered-moe bench`: tokens per second of prefill and decode, the median of several runs with their spread. */
import type { Command } from 'commander'
import { createError } from '../errors/index.js'
import { filePath, integer, modelArgument } from './arguments.js'
import { type EngineChoices, type OpenModel, peakMemory, withEngineOptions } from './engine.js'
import { formatBytes, formatMilliseconds, formatTable } from './format.js'
import type { Session } from './session.js'

interface BenchOptions extends EngineChoices {
  prefill: number
  decode: number
  repeat: number
  json?: boolean
}

interface Figure {
  tokens: number
  /** Tokens already in the context when the measurement starts. */
  depth: number
  /** Tokens per second. */
  median: number
  min: number
  max: number
}

/** Fixed token ids, spread over the vocabulary: routing sees different tokens, every run the same. */
function promptOf(length: number, vocab: number): number[] {
  return Array.from({ length }, (_, i) => (i * 7919 + 31) % vocab)
}

function figure(tokens: number, depth: number, seconds: number[]): Figure {
  const rates = seconds.map((s) => tokens / s).sort((a, b) => a - b)
  return { tokens, depth, median: rates[rates.length >> 1]!, min: rates[0]!, max: rates.at(-1)! }
}

async function prefill(open: OpenModel, prompt: number[], session: Session): Promise<number> {
  const started = performance.now()
  await open.engine.forward({ model: open.id, tokens: prompt, logits: 'last' }, { signal: session.signal })
  return (performance.now() - started) / 1000
}

/** Seconds for `tokens` tokens after the first, which still belongs to the prefill. */
async function decode(open: OpenModel, prompt: number[], tokens: number, session: Session): Promise<number> {
  const request = { model: open.id, promptTokens: prompt, maxTokens: tokens + 1, temperature: 0, ignoreEos: true }
  let first = 0
  let last = 0
  for await (const item of open.engine.createGenerator(request, { signal: session.signal })) {
    if (item.finishReason !== undefined) break
    last = performance.now()
    if (first === 0) first = last
  }
  return (last - first) / 1000
}

async function measure(open: OpenModel, options: BenchOptions, session: Session): Promise<void> {
  const { contextLength } = open.engine.listModels()[0]!
  const { decode: decoded, repeat } = options
  const room = contextLength - decoded
  if (room < 1) {
    throw createError(
      'VALIDATION_ERROR',
      `bench: --decode ${decoded} does not fit into a context of ${contextLength}`,
      {
        path: 'decode',
        found: decoded,
        allowed: `less than ${contextLength}`
      }
    )
  }
  const prompt = promptOf(Math.min(options.prefill, room), open.descriptor.vocab)
  const short = prompt.slice(0, 1)
  const seconds = { prefill: [] as number[], shallow: [] as number[], deep: [] as number[] }
  await prefill(open, prompt, session)
  for (let i = 0; i < repeat; i++) {
    session.progress('measuring', { bytesDone: i, bytesTotal: repeat })
    seconds.prefill.push(await prefill(open, prompt, session))
    seconds.shallow.push(await decode(open, short, decoded, session))
    seconds.deep.push(await decode(open, prompt, decoded, session))
  }
  session.clearProgress()
  const { isa, threads } = open.engine.backend
  const figures = {
    prefill: figure(prompt.length, 0, seconds.prefill),
    decode: figure(decoded, 0, seconds.shallow),
    decodeAtDepth: figure(decoded, prompt.length, seconds.deep)
  }
  const peakBytes = peakMemory()
  if (options.json) {
    const { id, loadMs } = open
    session.json({ model: id, isa, threads, repeat, loadMs, ...figures, peakMemoryBytes: peakBytes })
    return
  }
  const row = (name: string, { median, min, max }: Figure) => [
    name,
    `${median.toFixed(1)} tokens/s`,
    `${min.toFixed(1)} – ${max.toFixed(1)}`
  ]
  session.write(
    formatTable([
      [`${open.id}, ${isa}, ${threads} threads`, 'median', `spread of ${repeat}`],
      row(`prefill ${prompt.length}`, figures.prefill),
      row(`decode ${decoded} at depth 1`, figures.decode),
      row(`decode ${decoded} at depth ${prompt.length}`, figures.decodeAtDepth)
    ])
  )
  session.write(`load ${formatMilliseconds(open.loadMs)}, peak memory ${formatBytes(peakBytes)}\n`)
}

export function addBench(program: Command, session: Session): void {
  const command = program
    .command('bench')
    .description('measure tokens/s of prefill and decode')
    .argument('[model]', modelArgument, filePath)
    .option('--prefill <n>', 'tokens of the prompt', integer(1), 512)
    .option('--decode <n>', 'tokens to decode', integer(1), 64)
    .option('--repeat <n>', 'runs of each', integer(1, 1000), 5)
    .option('--json', 'one JSON object')
  withEngineOptions(command).action(async (model: string | undefined, options: BenchOptions) => {
    const { withModel } = await import('./with-model.js')
    await withModel(model, options, session, (open) => measure(open, options, session))
  })
}

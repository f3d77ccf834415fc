/** `tiered-moe price`: what each TierSet of a model costs and what it gives, measured here on a text: the price list. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Command } from 'commander'
import { createError, isEngineError, readFailed } from '../errors/index.js'
import type { ExpertStats } from '../index.js'
import { packageRoot } from '../native.js'
import { MODE_NAMES } from '../tiers/tier-sets.js'
import { filePath, given, integer, modelArgument } from './arguments.js'
import { type EngineChoices, type OpenModel, tierSetOf, withEngineOptions } from './engine.js'
import { formatBytes, formatMilliseconds, formatTable } from './format.js'
import type { Session } from './session.js'

interface PriceOptions extends EngineChoices {
  text?: string
  tokens: number
  decode: number
  json?: boolean
}

/** One line of the price list. */
interface Price {
  /** Modes that mean these tiers; or what `--tier-set` said. */
  names: string[]
  tiers: string[]
  /** Experts of all layers that are enabled, and all there are. */
  experts: number
  of: number
  perplexity: number
  /** Shares of demands that found their expert in memory (1 where all are kept there), and on its way: those waited for its read. */
  hitRate: number
  lateRate: number
  /** Milliseconds of a decoded token. */
  p50: number
  p99: number
  /** From files, per decoded token: demanded and read ahead. */
  bytesPerToken: number
}

/** A TierSet that leaves a layer too few experts has no price. */
interface NoPrice {
  names: string[]
  tiers: string[]
  reason: string
}

const sampleText = () => join(packageRoot(), 'models', 'tiny-shakespeare-scene.txt')

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (cause) {
    throw readFailed(path, cause, `price: ${path}`)
  }
}

/** The value that a share `p` of the figures does not exceed. */
function percentile(values: readonly number[], p: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.ceil(p * sorted.length) - 1)] ?? 0
}

/** Milliseconds of each token after the first. */
async function decode(open: OpenModel, request: object, session: Session): Promise<number[]> {
  const times: number[] = []
  let last = 0
  const all = { model: open.id, temperature: 0, ignoreEos: true, ...request }
  for await (const item of open.engine.createGenerator(all, { signal: session.signal })) {
    const now = performance.now()
    if (item.finishReason !== undefined) break
    if (last > 0) times.push(now - last)
    last = now
  }
  return times
}

/** The TierSet that was asked for; otherwise the modes, by the tiers that they mean. */
async function tierSets(
  open: OpenModel,
  asked: string | undefined
): Promise<{ names: string[]; tiers: string[]; reason?: string }[]> {
  const found = new Map<string, { names: string[]; tiers: string[]; reason?: string }>()
  for (const name of asked === undefined ? MODE_NAMES : [asked]) {
    let tiers: string[]
    let reason: string | undefined
    try {
      tiers = [...(await open.engine.activateTierSet(open.id, tierSetOf(name))).active.tiers]
    } catch (error) {
      if (!isEngineError(error) || error.code !== 'ROUTING_TOO_FEW_EXPERTS') throw error
      tiers = error.details.tiers as string[]
      reason = error.message
    }
    const entry = found.get(tiers.join()) ?? { names: [], tiers, ...given({ reason }) }
    entry.names.push(name)
    found.set(tiers.join(), entry)
  }
  return [...found.values()]
}

const bytesOf = (stats: ExpertStats | undefined): number => (stats ? stats.demandBytes + stats.prefetchBytes : 0)

async function priceOf(
  open: OpenModel,
  { names, tiers }: { names: string[]; tiers: string[] },
  tokens: number[],
  options: PriceOptions,
  session: Session
): Promise<Price> {
  const { engine, id, descriptor } = open
  const model = engine.listModels()[0]!
  const { perplexity } = await engine.perplexity({ model: id, tokens, tierSet: tiers }, { signal: session.signal })
  await engine.activateTierSet(id, tiers)
  const prompt = tokens.slice(0, Math.min(32, model.contextLength - 2))
  const maxTokens = Math.min(options.decode + 1, model.contextLength - prompt.length)
  const request = { promptTokens: prompt, maxTokens, tierSet: tiers }
  // the first run brings the experts of this TierSet into memory, as far as they fit
  await decode(open, request, session)
  const before = engine.modelStats(id).experts
  const times = await decode(open, request, session)
  const after = engine.modelStats(id).experts
  const grown = (key: 'uses' | 'hits' | 'late') => (after?.[key] ?? 0) - (before?.[key] ?? 0)
  const uses = grown('uses')
  const own = model.tiers.filter(({ name }) => tiers.includes(name))
  return {
    names,
    tiers,
    experts: own.reduce((sum, tier) => sum + tier.experts, 0),
    of: descriptor.expertLayers * descriptor.experts,
    perplexity,
    hitRate: uses > 0 ? grown('hits') / uses : 1,
    lateRate: uses > 0 ? grown('late') / uses : 0,
    p50: percentile(times, 0.5),
    p99: percentile(times, 0.99),
    bytesPerToken: (bytesOf(after) - bytesOf(before)) / Math.max(1, times.length)
  }
}

function show(prices: readonly (Price | NoPrice)[], session: Session): void {
  const head = ['TierSet', 'tiers', 'experts', 'perplexity', 'hit rate', 'late', 'p50', 'p99', 'read per token']
  const rows = prices.map((price) => {
    const name = [price.names.join(', '), price.tiers.join(' + ')]
    if ('reason' in price) return [...name, 'too few', '-', '-', '-', '-', '-', '-']
    return [
      ...name,
      `${price.experts} of ${price.of}`,
      price.perplexity.toFixed(2),
      ...[price.hitRate, price.lateRate].map((share) => `${(100 * share).toFixed(1)} %`),
      formatMilliseconds(price.p50),
      formatMilliseconds(price.p99),
      formatBytes(Math.round(price.bytesPerToken))
    ]
  })
  session.write(formatTable([head, ...rows]))
}

async function list(open: OpenModel, options: PriceOptions, session: Session): Promise<void> {
  const { engine, id } = open
  const path = options.text ?? sampleText()
  const text = await readText(path)
  const encoded = await engine.tokenize({ model: id, text })
  const tokens = encoded.tokens.slice(0, options.tokens)
  if (tokens.length < 2) {
    const details = { path: 'text', found: `${tokens.length} tokens`, allowed: 'a text of at least two tokens' }
    throw createError(
      'VALIDATION_ERROR',
      `price: ${path} has ${tokens.length} tokens, at least two are needed`,
      details
    )
  }
  const sets = await tierSets(open, options.tierSet)
  const prices: (Price | NoPrice)[] = []
  for (const [done, { reason, ...set }] of sets.entries()) {
    session.progress('measuring', { bytesDone: done, bytesTotal: sets.length })
    prices.push(reason === undefined ? await priceOf(open, set, tokens, options, session) : { ...set, reason })
  }
  session.clearProgress()
  const { isa, threads } = engine.backend
  const { memory } = engine.listModels()[0]!
  if (options.json) session.json({ model: id, text: path, tokens: tokens.length, isa, threads, memory, prices })
  else show(prices, session)
}

export function addPrice(program: Command, session: Session): void {
  const command = program
    .command('price')
    .description(
      'measure what each mode (or the one --tier-set) costs and gives: perplexity, hit rate, latency, bytes read'
    )
    .argument('[model]', modelArgument, filePath)
    .option('--text <file>', 'the text of the perplexity (default: a scene that comes with the package)', filePath)
    .option('--tokens <n>', 'tokens of the text at most', integer(2), 1024)
    .option('--decode <n>', 'tokens to decode per TierSet', integer(2), 64)
    .option('--json', 'one JSON object')
  withEngineOptions(command).action(async (model: string | undefined, options: PriceOptions) => {
    const { withModel } = await import('./with-model.js')
    await withModel(model, options, session, (open) => list(open, options, session))
  })
}

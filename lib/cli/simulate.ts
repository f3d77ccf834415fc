/** `tiered-moe simulate`: a trace against caches of several sizes and policies, and how far each is from the best possible. */
import type { Command } from 'commander'
import { comparePolicies, type PolicyComparison, type PolicyResult } from '../tiers/simulation.js'
import { readTrace, type Trace, traceSteps } from '../tiers/trace.js'
import { filePath, integer, number } from './arguments.js'
import { formatTable, printable } from './format.js'
import type { Session } from './session.js'

interface SimulateOptions {
  slots?: number[]
  residency?: number[]
  seed?: number
  mixes: boolean
  json?: boolean
}

const USUAL = [0.25, 0.5, 0.75]
const MOST_SLOTS = 2 ** 31

const percent = (share: number): string => `${(100 * share).toFixed(2)} %`
const better = (a: PolicyResult, b: PolicyResult): PolicyResult => (b.hits > a.hits ? b : a)

/** The numbers of slots asked for; without any, the recorded one, or the usual shares of all experts. */
function slotsOf(trace: Trace, { slots = [], residency = [] }: SimulateOptions): number[] {
  const all = trace.layers * trace.experts
  const asked = [...slots, ...residency.map((share) => Math.max(1, Math.floor(all * share)))]
  if (asked.length > 0) return asked
  return trace.slots > 0 ? [trace.slots] : USUAL.map((share) => Math.max(1, Math.floor(all * share)))
}

function row({ policy, hitRate, ofOptimum, misses, evictions, mix }: PolicyResult): string[] {
  const name = mix === undefined ? policy : `mix: ${mix}`
  return [name, percent(hitRate), percent(ofOptimum), String(misses), String(evictions)]
}

function show(trace: Trace, { slots, uses, policies, mixes, optimum }: PolicyComparison, session: Session): void {
  const all = trace.layers * trace.experts
  const best = mixes.length ? [mixes.reduce(better)] : []
  session.write(
    `\n${slots} of ${all} experts in memory (${percent(slots / all)}), ${uses} uses\n${formatTable([
      ['policy', 'hits', 'of optimum', 'misses', 'evictions'],
      ...[...policies, ...best, optimum].map(row)
    ])}`
  )
}

const numbers =
  (parse: (text: string) => number) =>
  (text: string, before: number[] | undefined): number[] => [...(before ?? []), parse(text)]

export function addSimulate(program: Command, session: Session): void {
  program
    .command('simulate')
    .description('hit rates of cache policies on a recorded trace, beside the best possible')
    .argument('<trace>', 'a trace file (docs/traces.md)', filePath)
    .option('--slots <count>', 'experts in memory; may be given several times', numbers(integer(1, MOST_SLOTS)))
    .option('--residency <share>', 'experts in memory as a share of all, 0 to 1', numbers(number(0, 1)))
    .option('--seed <number>', 'of the hash that breaks ties; usually the recorded one', integer(0, 2 ** 32 - 1))
    .option('--no-mixes', 'leave the fixed mixes out')
    .option('--json', 'all of it as one JSON object, with the counts of every layer')
    .action(async (path: string, options: SimulateOptions) => {
      const trace = await readTrace(path)
      const { layers, experts, slots, policy, model } = trace
      const seed = options.seed ?? trace.seed
      const steps = traceSteps(trace)
      const comparisons: PolicyComparison[] = []
      for (const count of slotsOf(trace, options)) {
        session.signal.throwIfAborted()
        comparisons.push(await comparePolicies(trace, count, { seed, mixes: options.mixes }))
      }
      if (options.json) {
        session.json({
          path,
          model: model ?? null,
          layers,
          experts,
          steps,
          recorded: { slots, policy },
          seed,
          comparisons
        })
        return
      }
      const from = model === undefined ? '' : ` of ${printable(model)}`
      session.write(`${path}: ${steps} steps${from}, ${layers} layers of ${experts} experts\n`)
      for (const comparison of comparisons) show(trace, comparison, session)
    })
}

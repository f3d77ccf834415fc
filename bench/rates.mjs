// The CPU's kernels beside what this machine can do, in turn in one process: experts of one token and of four beside the read bandwidth, experts
// of a prompt beside the int8 peak, and a plain matrix beside one split along K, which the arithmetic contract does not allow.
//   npm run bench:rates                 Q4_0, a quarter of a layer's experts, three rounds
//   npm run bench:rates -- --full       64 experts in four layers, nine rounds, every type
// Also --types Q4_0,Q8_0 --threads N --rounds N --isa NAME.
import { execFileSync } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { parseArgs } from 'node:util'
import { environment, printEnvironment, printTable, showSpread, summarise, writeReport } from './harness.mjs'
import { kernelProgram } from './programs.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    types: { type: 'string' },
    threads: { type: 'string', default: String(availableParallelism()) },
    rounds: { type: 'string' },
    isa: { type: 'string', default: 'auto' }
  }
})
/** Shares of the bandwidth, of the int8 peak (issue 7). */
const goals = { gemv: 0.9, gemm: 0.6 }
const types = (
  options.types ?? (options.full ? 'Q4_0,Q8_0,Q4_K,Q6_K,MXFP4,Q4_1,Q5_0,Q5_1,Q5_K,IQ4_NL,IQ4_XS,F16,BF16,F32' : 'Q4_0')
).split(',')
const rounds = options.rounds ?? (options.full ? '9' : '3')

const stamp = environment()
printEnvironment(stamp)
const path = await kernelProgram('kernel_rates')
const report = {}
const rows = []
const missed = []
for (const type of types) {
  const output = execFileSync(path, [options.isa, options.threads, type, rounds, ...(options.full ? [] : ['4'])], {
    encoding: 'utf8'
  })
  const samples = output
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  const of = (value) => summarise(samples.map(value))
  const figures = {
    bandwidth: of((s) => s.bandwidth),
    gemv: of((s) => s.expertGemv / s.bandwidth),
    few: of((s) => s.expertFew / s.bandwidth),
    peak: of((s) => s.int8Peak),
    gemm: of((s) => s.expertGemm / s.int8Peak),
    priceGemv: samples[0].splitGemv ? of((s) => s.gemv / s.splitGemv) : undefined,
    priceGemm: samples[0].splitGemm ? of((s) => s.gemm / s.splitGemm) : undefined
  }
  report[type] = { figures, samples }
  if (figures.gemv.median < goals.gemv) missed.push(`${type}, one token`)
  // Float weights have no int8 dots: their share is shown only.
  const integer = !['F32', 'F16', 'BF16'].includes(type)
  if (integer && samples[0].int8Peak && figures.gemm.median < goals.gemm) missed.push(`${type}, a prompt`)
  rows.push([
    type,
    showSpread(figures.bandwidth),
    showSpread(figures.gemv),
    showSpread(figures.few),
    ...(samples[0].int8Peak ? [showSpread(figures.peak), showSpread(figures.gemm)] : ['-', '-']),
    showSpread(figures.priceGemv),
    showSpread(figures.priceGemm)
  ])
}
printTable(
  [
    'type',
    'read GB/s',
    'experts of 1 token ÷ that',
    'of 4 tokens',
    'int8 peak Gop/s',
    'experts of 512 tokens ÷ that',
    'matrix × 1 token ÷ split',
    'matrix × 60 tokens ÷ split'
  ],
  rows
)
console.log(
  `expected: at least ${goals.gemv} of the bandwidth and ${goals.gemm} of the peak: ${missed.length ? `missed by ${missed.join('; ')}` : 'all'}`
)
console.log(`written: ${writeReport('rates.json', { environment: stamp, options, goals, report })}`)
if (options.full && missed.length) process.exitCode = 1

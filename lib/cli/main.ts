#!/usr/bin/env node
/** The command line: one file per command, one place where all of them fail. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { packageRoot } from '../native.js'
import { endWith } from './failure.js'
import { Session } from './session.js'

const session = new Session()
const { version } = JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as { version: string }

const program = new Command('tiered-moe')
  .description('Mixture-of-Experts models in Node, with the same bits on every CPU')
  .version(version)
  .showSuggestionAfterError(true)
  .exitOverride()
  // failures are reported once, by endWith
  .configureOutput({ writeErr: () => {} })
/** What adds each command: the one that is asked for, or all, for their help; to read them all takes longer than most commands do. */
const commands: Record<string, () => Promise<(program: Command, session: Session, version: string) => void>> = {
  run: async () => (await import('./run.js')).addRun,
  serve: async () => (await import('./serve.js')).addServe,
  inspect: async () => (await import('./inspect.js')).addInspect,
  bench: async () => (await import('./bench.js')).addBench,
  config: async () => (await import('./config.js')).addConfig,
  doctor: async () => (await import('./doctor.js')).addDoctor,
  quantize: async () => (await import('./quantize.js')).addQuantize,
  price: async () => (await import('./price.js')).addPrice,
  audit: async () => (await import('./audit.js')).addAudit,
  pull: async () => (await import('./pull.js')).addPull,
  convert: async () => (await import('./convert.js')).addConvert,
  verify: async () => (await import('./verify.js')).addVerify,
  simulate: async () => (await import('./simulate.js')).addSimulate
}
const asked = process.argv[2] ?? ''
for (const [name, command] of Object.entries(commands)) {
  if (name === asked || !Object.hasOwn(commands, asked)) (await command())(program, session, version)
}

try {
  if (process.argv.length <= 2) program.outputHelp()
  else await program.parseAsync()
  await session.checkOutput()
  process.exitCode = session.exitCode ?? 0
} catch (error) {
  process.exitCode = endWith(error, session, process.argv.includes('--json'))
}

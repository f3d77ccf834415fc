#!/usr/bin/env node
/** The command line: one file per command, one place where all of them fail. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Command } from 'commander'
import { packageRoot } from '../native.js'
import { addAudit } from './audit.js'
import { addBench } from './bench.js'
import { addConvert } from './convert.js'
import { addDoctor } from './doctor.js'
import { endWith } from './failure.js'
import { addInspect } from './inspect.js'
import { addPrice } from './price.js'
import { addQuantize } from './quantize.js'
import { addRun } from './run.js'
import { Session } from './session.js'
import { addSimulate } from './simulate.js'
import { addVerify } from './verify.js'

const session = new Session()
const { version } = JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as { version: string }

const program = new Command('tiered-moe')
  .description('Mixture-of-Experts models in Node, with the same bits on every CPU')
  .version(version)
  .showSuggestionAfterError(true)
  .exitOverride()
  // failures are reported once, by endWith
  .configureOutput({ writeErr: () => {} })
addRun(program, session)
addInspect(program, session)
addBench(program, session)
addDoctor(program, session, version)
addQuantize(program, session)
addPrice(program, session)
addAudit(program, session)
addConvert(program, session)
addVerify(program, session)
addSimulate(program, session)

try {
  if (process.argv.length <= 2) program.outputHelp()
  else await program.parseAsync()
  process.exitCode = session.exitCode ?? 0
} catch (error) {
  process.exitCode = endWith(error, session, process.argv.includes('--json'))
}

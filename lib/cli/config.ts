/** `tiered-moe config check|print`: whether a configuration is sound, and what it comes to. */
import type { Command } from 'commander'
import { pathText } from '../config/fault.js'
import { fileKeys } from '../config/keys.js'
import { leavesOf, withoutSecrets, yamlOf } from '../config/print.js'
import type { ConfigFault } from '../config/provenance.js'
import { isEngineError } from '../errors/index.js'
import { type LoadedConfig, loadRuntimeConfig } from '../runtime-config.js'
import { runtimeSchema } from '../runtime-schema.js'
import { filePath, given } from './arguments.js'
import type { Session } from './session.js'

interface CheckOptions {
  environment?: string
  json?: boolean
}

interface PrintOptions extends CheckOptions {
  sources?: boolean
}

/** The file alone and with each of its environments, or with the one that is asked for. */
async function check(path: string | undefined, { environment }: CheckOptions): Promise<LoadedConfig> {
  const asked = given({ path, environment })
  const first = await loadRuntimeConfig(asked)
  if (first.environment === undefined) {
    for (const name of first.environments) await loadRuntimeConfig({ ...asked, environment: name })
  }
  return first
}

/** Each fault on a line, where there are several: the error itself names the first only. */
function tellAll(error: unknown, session: Session): void {
  const faults = isEngineError(error) ? ((error.details.faults ?? []) as ConfigFault[]) : []
  if (faults.length < 2) return
  for (const { source, line, column, path, found, allowed, nearest } of faults) {
    const at = line === undefined ? source : `${source}:${line}:${column}`
    const guess = nearest === undefined ? '' : ` (did you mean ${nearest}?)`
    session.note(`${at}: ${path} is ${found}${guess}, allowed: ${allowed}\n`)
  }
}

function print(loaded: LoadedConfig, { json, sources }: PrintOptions, session: Session): void {
  const settings = fileKeys(runtimeSchema, withoutSecrets(loaded.config))
  const source = (path: readonly PropertyKey[]): string => loaded.source(pathText(path))
  if (!json) {
    session.write(yamlOf(settings, sources ? source : undefined))
  } else if (sources) {
    const of = leavesOf(settings).map((path) => [pathText(path), source(path)])
    session.json({ config: settings, sources: Object.fromEntries(of) })
  } else {
    session.json(settings)
  }
}

export function addConfig(program: Command, session: Session): void {
  const config = program.command('config').description('configuration files (docs/configuration.md)')
  const withFile = (name: string, description: string) =>
    config
      .command(name)
      .description(description)
      .argument(
        '[file]',
        'YAML or JSON (default: that of TIERED_MOE_CONFIG, else tiered-moe.yaml in this folder)',
        filePath
      )
      .option('--environment <name>', 'one of the environments of the file (default: that of TIERED_MOE_ENV)')
  withFile('check', 'whether every setting is known and allowed, in every environment')
    .option('--json', 'one JSON object')
    .action(async (path: string | undefined, options: CheckOptions) => {
      try {
        const { file, environment, environments } = await check(path, options)
        const of = environment === undefined ? environments : [environment]
        const checkedIn = of.length === 0 ? '' : `, with the environments ${of.join(', ')}`
        if (options.json) session.json({ sound: true, file: file ?? null, environments: of })
        else session.write(`${file ?? 'no file: defaults and variables'}: sound${checkedIn}\n`)
      } catch (error) {
        if (!options.json) tellAll(error, session)
        throw error
      }
    })
  withFile('print', 'all settings as they come out of file, environment and variables, without secrets')
    .option('--json', 'JSON instead of YAML')
    .option('--sources', 'where each setting comes from')
    .action(async (path: string | undefined, options: PrintOptions) => {
      print(await loadRuntimeConfig(given({ path, environment: options.environment })), options, session)
    })
}

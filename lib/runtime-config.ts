/** The configuration of a process: a file, overlays of it for environments, variables and options, checked as one. */
import { z } from 'zod'
import { settingsOf } from './config/environment.js'
import { filePath, isMapping, schemaKeys, schemaPath } from './config/keys.js'
import type { Layer, Owners } from './config/merge.js'
import { merged } from './config/merge.js'
import type { ConfigFault } from './config/provenance.js'
import { configInvalid, labelOf, locate, located, mostFaults, unknownKey } from './config/provenance.js'
import { type ConfigText, readConfig, readText } from './config/read.js'
import { createError, isEngineError } from './errors/index.js'
import { contradictions, type RuntimeConfig, runtimeSchema } from './runtime-schema.js'
import { validated } from './schemas.js'
import { describeValue } from './validation.js'

type Partly<T> = T extends readonly unknown[] ? T : T extends object ? { [K in keyof T]?: Partly<T[K]> } : T

/** Settings that go over all others, with the names of options: `{ engine: { maxBatchTokens: 64 } }`. */
export type RuntimeOptions = Partly<RuntimeConfig>

export interface ConfigRequest {
  /** The file. Default: that of TIERED_MOE_CONFIG, else tiered-moe.yaml, .yml or .json in this folder, else none. */
  path?: string
  /** Instead of a file: its text. */
  text?: string
  /** Default: process.env. */
  env?: Readonly<Record<string, string | undefined>>
  /** Which of the file's `environments` goes over the rest of it. Default: that of TIERED_MOE_ENV, else none. */
  environment?: string
  options?: RuntimeOptions
}

export interface LoadedConfig {
  /** All settings, with their defaults. */
  config: RuntimeConfig
  /** The overlay that was used. */
  environment: string | undefined
  /** The overlays that the file has. */
  environments: string[]
  /** The file that was read; undefined where there was none. */
  file: string | undefined
  /**
   * Where a setting came from: `default`, `<file>:<line>`, `environments.<name>:<line>`, `env:<NAME>` or `option`. `path` as in a file or as in
   * options: `engine.max_batch_tokens`, `models[0].archive.url`.
   */
  source(path: string): string
}

const isEnvironment = (value: unknown): boolean =>
  isMapping(value) && Object.values(value).every((text) => text === undefined || typeof text === 'string')

const requestSchema = z.strictObject({
  path: z.string().min(1).optional().describe('the path of a file'),
  text: z.string().optional().describe('YAML or JSON'),
  // process.env is no plain object.
  env: z.custom<Readonly<Record<string, string | undefined>>>(isEnvironment).optional().describe('names with texts'),
  environment: z.string().min(1).optional().describe('a name of one of the environments of the file'),
  options: z.custom<RuntimeOptions>(isMapping).optional().describe('an object of settings')
})

/** In the working directory, the first that there is. */
const usualFiles = ['tiered-moe.yaml', 'tiered-moe.yml', 'tiered-moe.json']

/**
 * Defaults < file < `environments.<name>` < variables with the prefix TIERED_MOE__ < options. CONFIG_INVALID {source, path, found, allowed,
 * line, column, faults}, CONFIG_PARSE_FAILED {source, line, column, reason}, CONFIG_NOT_FOUND {path, tried}, CONFIG_UNKNOWN_ENVIRONMENT
 * {environment, known}, FILE_READ_FAILED; VALIDATION_ERROR of the request itself.
 */
export async function loadRuntimeConfig(request: ConfigRequest = {}): Promise<LoadedConfig> {
  const {
    path,
    text,
    env = process.env,
    environment: asked,
    options
  } = validated(requestSchema, request, 'loadRuntimeConfig')
  const file = text === undefined ? await findFile(path, env) : { name: 'text', text }
  const environment = asked ?? (env.TIERED_MOE_ENV || undefined)
  try {
    const { config, environments, source } = assembled(file, environment, env, options)
    return { config, environment, environments, file: text === undefined ? file?.name : undefined, source }
  } catch (error) {
    if (isEngineError(error)) throw error
    // A getter that throws, a circle, thousands of levels.
    const fault = { path: '', found: 'something that cannot be read', allowed: 'plain objects, lists and values' }
    throw configInvalid([{ ...fault, source: options ? 'option' : (file?.name ?? 'env') }], error)
  }
}

function assembled(
  file: ConfigFile | undefined,
  environment: string | undefined,
  env: Readonly<Record<string, string | undefined>>,
  options: RuntimeOptions | undefined
): Pick<LoadedConfig, 'config' | 'environments' | 'source'> {
  const faults: ConfigFault[] = []
  const { layers, environments } = fileLayers(file, environment, faults)
  for (const { name, value } of settingsOf(runtimeSchema, env)) {
    layers.push(checkedLayer({ value, name: `env:${name}`, path: (own) => own }, faults))
  }
  if (options) {
    const layer: Layer = { value: options, name: 'option', path: (own) => own }
    layers.push(checkedLayer(layer, faults, { spelling: 'camelCase' }))
  }
  const { value, owners } = merged(layers)
  const config = checked(value ?? {}, owners, file?.name ?? '', faults)
  const source = (text: string): string => {
    const at = schemaPath(runtimeSchema, pathOf(text))
    const layer = owners.of(at)
    return layer === undefined ? 'default' : labelOf(layer, filePath(runtimeSchema, at))
  }
  return { config, environments, source }
}

/** `models[0].archive` as its keys. */
const pathOf = (text: string): PropertyKey[] =>
  [...text.matchAll(/\[(\d+)\]|[^.[\]]+/g)].map(([key, index]) => (index === undefined ? key : Number(index)))

interface ConfigFile {
  name: string
  text: string
}

async function findFile(
  asked: string | undefined,
  env: Readonly<Record<string, string | undefined>>
): Promise<ConfigFile | undefined> {
  const named = asked ?? (env.TIERED_MOE_CONFIG || undefined)
  for (const name of named === undefined ? usualFiles : [named]) {
    const text = await readText(name)
    if (text !== undefined) return { name, text }
  }
  if (named === undefined) return undefined
  const details = { path: named, tried: [named] }
  throw createError('CONFIG_NOT_FOUND', `there is no configuration file ${named}`, details)
}

/** A layer with the keys of the schema. */
function checkedLayer(
  layer: Layer,
  faults: ConfigFault[],
  { spelling = 'snake_case', source = layer.name, schema = runtimeSchema as z.ZodType }: Spelling = {}
): Layer {
  const value = schemaKeys(schema, layer.value, spelling, (key) => {
    if (faults.length < mostFaults) faults.push(unknownKey(layer, source, key))
  })
  return { ...layer, value }
}

interface Spelling {
  spelling?: 'snake_case' | 'camelCase'
  /** What faults name, where it is not the layer. */
  source?: string
  schema?: z.ZodType
}

/** What stands in a file beside the settings. */
const fileSchema = runtimeSchema.extend({ environments: z.unknown() })

/** The file, and the overlay over it. The names in the other overlays are checked too: they are wrong before they are used. */
function fileLayers(
  file: ConfigFile | undefined,
  environment: string | undefined,
  faults: ConfigFault[]
): { layers: Layer[]; environments: string[] } {
  const read = file ? readConfig(file.text, file.name) : undefined
  const { environments: given, ...base } = mapping(read?.value, [], file, read)
  const overlays = Object.entries(mapping(given, ['environments'], file, read))
  const environments = overlays.map(([name]) => name)
  if (environment !== undefined && !environments.includes(environment)) {
    const known = environments.length === 0 ? 'none' : environments.join(', ')
    const message = `the configuration has no environment ${JSON.stringify(environment)}, but ${known}`
    throw createError('CONFIG_UNKNOWN_ENVIRONMENT', message, { environment, known: environments })
  }
  if (!file || !read) return { layers: [], environments }
  const own: Layer = { value: base, name: file.name, path: (path) => path, place: read.place }
  const layers = [checkedLayer(own, faults, { schema: fileSchema })]
  for (const [name, value] of overlays) {
    const at = ['environments', name]
    const path = (inside: readonly PropertyKey[]) => [...at, ...inside]
    const overlay: Layer = {
      value: mapping(value, at, file, read),
      name: at.join('.'),
      path,
      place: (inside) => read.place(path(inside))
    }
    const layer = checkedLayer(overlay, faults, { source: file.name })
    if (name === environment) layers.push(layer)
  }
  return { layers, environments }
}

/** What has to be a mapping, or nothing. CONFIG_INVALID. */
function mapping(
  value: unknown,
  path: readonly string[],
  file: ConfigFile | undefined,
  read: ConfigText | undefined
): Record<string, unknown> {
  if (value === undefined || value === null) return {}
  if (isMapping(value)) return value
  const allowed = `a mapping of ${path.length === 1 ? 'names to settings' : 'settings'}`
  const fault = { path: path.join('.'), found: describeValue(value), allowed, source: file?.name ?? '' }
  throw configInvalid([{ ...fault, ...read?.place(path) }])
}

/** CONFIG_INVALID with all faults: unknown keys first, then values, then what contradicts each other. */
function checked(value: unknown, owners: Owners, file: string, faults: ConfigFault[]): RuntimeConfig {
  const { error } = runtimeSchema.safeParse(value)
  if (error) faults.push(...located(runtimeSchema, value, error.issues, owners, file))
  if (faults.length > 0) throw configInvalid(faults)
  const config = runtimeSchema.parse(inherited(value as GivenConfig, owners)) as RuntimeConfig
  const against = contradictions(config).map((fault) => locate(runtimeSchema, config, fault, owners, file))
  if (against.length > 0) throw configInvalid(against)
  return config
}

interface GivenConfig {
  network?: { retry?: object; circuitBreaker?: object }
  models?: { archive?: { retry?: object; breaker?: object } }[]
}

/** Every model's archive with what `network` says, but where the model says it itself. */
function inherited(given: GivenConfig, owners: Owners): GivenConfig {
  const { retry, circuitBreaker } = given.network ?? {}
  if ((!retry && !circuitBreaker) || !given.models) return given
  const models = given.models.map((model, i) => {
    const archive = { ...model.archive }
    for (const [to, from, values] of [
      ['retry', 'retry', retry],
      ['breaker', 'circuitBreaker', circuitBreaker]
    ] as const) {
      for (const [key, value] of Object.entries(values ?? {})) {
        if (archive[to] && Object.hasOwn(archive[to], key)) continue
        archive[to] = { ...archive[to], [key]: value }
        const at = ['network', from, key]
        const owner = owners.of(at)
        const own = ['models', i, 'archive', to, key].reduce((each: Owners, part) => each.under(part), owners)
        own.layer = owner && standingAt(owner, filePath(runtimeSchema, at))
      }
    }
    return { ...model, archive }
  })
  return { ...given, models }
}

/** The same layer for a setting that stands elsewhere in it. */
const standingAt = ({ place, ...layer }: Layer, path: readonly PropertyKey[]): Layer =>
  place ? { ...layer, path: () => path, place: () => place(path) } : { ...layer, path: () => path }

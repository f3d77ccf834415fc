/** Where each setting came from, and faults told with it. */
import type { z } from 'zod'
import type { EngineError } from '../errors/index.js'
import { createError } from '../errors/index.js'
import { describeValue } from '../validation.js'
import type { Fault, Issue } from './fault.js'
import { faultsOf, pathText, valueAt } from './fault.js'
import { hiddenForm } from './hidden.js'
import type { UnknownKey } from './keys.js'
import { filePath, fileSpelling, isMapping, nearestKey } from './keys.js'
import type { Layer, Owners } from './merge.js'
import { allowedOf, childOf } from './shape.js'

/** One thing that is wrong with a configuration. */
export interface ConfigFault {
  /** As it is written where it comes from: `engine.max_batch_tokens`. */
  path: string
  found: string
  allowed: string
  /** A file, `env:NAME`, `option`, or `default`. */
  source: string
  /** Of a file. */
  line?: number
  column?: number
  /** Of an unknown key, the known one that was probably meant. */
  nearest?: string
}

/** `file:line`, `environments.<name>:line`, `env:NAME` or `option`. */
export function labelOf(layer: Layer, path: readonly PropertyKey[]): string {
  return layer.place ? `${layer.name}:${layer.place(path).line}` : layer.name
}

/** So many are told of. */
export const mostFaults = 100

/** CONFIG_INVALID of the first; `details.faults` has the first hundred. */
export function configInvalid(faults: readonly ConfigFault[], cause?: unknown): EngineError {
  const first = faults[0]!
  const { path, source, line, column, found, allowed, nearest } = first
  const at = line === undefined ? source : `${source}:${line}:${column}`
  const guess = nearest === undefined ? '' : `, did you mean ${nearest}?`
  const message = `${at}: ${path === '' ? 'the configuration' : path} is ${found}${guess || ','} allowed: ${allowed}`
  return createError('CONFIG_INVALID', message, { ...first, faults: faults.slice(0, mostFaults) }, { cause })
}

export function unknownKey(layer: Layer, source: string, { path, known }: UnknownKey): ConfigFault {
  const nearest = nearestKey(String(path.at(-1)), known)
  return {
    path: pathText(layer.path(path)),
    found: 'not a setting',
    allowed: known.join(', '),
    source,
    ...layer.place?.(path),
    ...(nearest !== undefined && { nearest })
  }
}

/** Faults of the merged value, each told where its value came from. `file`: the name of the file that layers with places are of. */
export function located(
  schema: z.ZodType,
  value: unknown,
  issues: readonly Issue[],
  owners: Owners,
  file: string
): ConfigFault[] {
  const faults = faultsOf(
    schema,
    value,
    issues.slice(0, mostFaults).flatMap((issue) => deepest(issue, value)),
    allowedAt
  )
  return faults.map((fault) => locate(schema, value, fault, owners, file))
}

export function locate(schema: z.ZodType, value: unknown, fault: Fault, owners: Owners, file: string): ConfigFault {
  const { path, allowed } = fault
  const layer = owners.near(path)
  const inFile = filePath(schema, path)
  const option = layer?.name === 'option'
  const shown = hiddenForm(path, valueAt(value, path))
  return {
    path: pathText(option ? path : (layer?.path(inFile) ?? inFile)),
    found: shown === undefined ? fault.found : describeValue(shown),
    allowed: option ? allowed : fileSpelling(schema, allowed),
    source: layer === undefined ? 'default' : layer.place ? file : layer.name,
    ...layer?.place?.(inFile)
  }
}

/** Of a value that may have several forms and is a mapping: what is wrong inside of it, not that it is none of them. */
function deepest(issue: Issue, value: unknown): Issue[] {
  if (issue.code !== 'invalid_union' || !isMapping(valueAt(value, issue.path))) return [issue]
  const form = issue.errors.find(([first]) => first !== undefined && first.path.length > 0)
  if (!form) return [issue]
  return form.flatMap((inside) => deepest({ ...inside, path: [...issue.path, ...inside.path] } as Issue, value))
}

/** What the setting allows, or the nearest around it that says so. */
function allowedAt(schema: z.ZodType, path: readonly PropertyKey[]): string {
  let at: z.ZodType | undefined = schema
  let allowed = allowedOf(schema) ?? 'another value'
  for (const key of path) {
    at = childOf(at, key)
    if (at === undefined) return allowed
    allowed = allowedOf(at) ?? allowed
  }
  return allowed
}

/** A configuration as a file, without its secrets. */
import { Document, isNode } from 'yaml'
import { hiddenForm } from './hidden.js'
import { isMapping } from './keys.js'

/** A copy of all settings without secrets. */
export function withoutSecrets(value: unknown, path: readonly PropertyKey[] = []): unknown {
  if (Array.isArray(value)) return value.map((item, i) => withoutSecrets(item, [...path, i]))
  if (!isMapping(value)) return hiddenForm(path, value) ?? value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, withoutSecrets(item, [...path, key])]))
}

/** YAML of settings with the keys of a file; with `source`, where each came from beside it. */
export function yamlOf(settings: unknown, source?: (path: readonly PropertyKey[]) => string): string {
  const document = new Document(settings, { aliasDuplicateObjects: false })
  if (source) {
    for (const path of leavesOf(settings)) {
      const node = document.getIn(path, true)
      if (isNode(node)) node.comment = ` ${source(path)}`
    }
  }
  return document.toString({ lineWidth: 0 })
}

/** The paths of all values that have nothing inside. */
export function leavesOf(value: unknown, path: readonly PropertyKey[] = []): (readonly PropertyKey[])[] {
  if (Array.isArray(value) && value.length > 0) return value.flatMap((item, i) => leavesOf(item, [...path, i]))
  if (isMapping(value) && Object.keys(value).length > 0) {
    return Object.entries(value).flatMap(([key, item]) => leavesOf(item, [...path, key]))
  }
  return [path]
}

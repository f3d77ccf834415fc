/** A configuration as a file, without its secrets. */
import { Document, isNode } from 'yaml'
import { isMapping } from './keys.js'

const hidden = '(hidden)'

/** An address without what may be a secret in it: a name, a password, a query. */
function shownUrl(text: string): string | undefined {
  if (!/^[a-z][a-z0-9+.-]*:\/\//i.test(text) || !URL.canParse(text)) return undefined
  const { protocol, host, pathname, search, username, password } = new URL(text)
  if (search === '' && username === '' && password === '') return undefined
  return `${protocol}//${host}${pathname}${search === '' ? '' : `?${hidden}`}`
}

/** What is shown instead of the value of a setting: of headers and keys nothing, of an address no query. undefined: the value itself. */
export function hiddenForm(path: readonly PropertyKey[], value: unknown): string | undefined {
  const headers = path.indexOf('headers', 1)
  if (headers > 0 && path[headers - 1] === 'archive' && !isMapping(value)) return hidden
  if (path[0] === 'server' && path.at(-1) === 'sha256') return hidden
  return typeof value === 'string' ? shownUrl(value) : undefined
}

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

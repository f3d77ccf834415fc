/** What is shown of settings that may be secrets. */
import { describeValue } from '../validation.js'
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

/** What a fault says was found. `path`: of a configuration, or of the options of a call. */
export function describeFound(path: readonly PropertyKey[], value: unknown): string {
  const ofKeys = path[path[0] === 'server' ? 1 : 0] === 'keys'
  const plain = path.at(-1) === 'id' || path.at(-1) === 'expiresAt'
  // A text among a server's keys may be a key that was written in the wrong place.
  const shown = ofKeys && !plain && typeof value === 'string' ? hidden : hiddenForm(path, value)
  return describeValue(shown ?? value)
}

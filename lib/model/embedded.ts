/** Models that come with the package, and where any model's file is. */
import { basename, join, resolve } from 'node:path'

/** Name and file under models/. */
const EMBEDDED: ReadonlyMap<string, string> = new Map([['tiny-shakespeare', 'tiny-shakespeare-moe-q8_0.gguf']])

export const EMBEDDED_MODELS: readonly string[] = [...EMBEDDED.keys()]
export const DEFAULT_MODEL = 'tiny-shakespeare'

export interface ModelLocation {
  /** The id that a model of this name gets: an embedded model's name, or the file's name without its extension. */
  id: string
  path: string
}

/** Where the model of a name or path is; it need not exist. `root`: the package's folder. */
export function locateModel(root: string, model: string = DEFAULT_MODEL): ModelLocation {
  const file = EMBEDDED.get(model)
  if (file !== undefined) return { id: model, path: join(root, 'models', file) }
  const path = resolve(model)
  return { id: basename(path).replace(/\.gguf$/i, ''), path }
}

/** Layers of settings, each over the one before: mappings are merged, lists and values replaced, null takes a setting back to its default. */
import { isMapping, ListItem } from './keys.js'
import type { Place } from './read.js'

/** Where settings come from. */
export interface Layer {
  /** With the keys of the schema. */
  value: unknown
  /** `file.yaml`, `environments.production`, `env:NAME`, `option`. */
  name: string
  /** The path that a setting has there, from its path in a file. */
  path(filePath: readonly PropertyKey[]): readonly PropertyKey[]
  /** Of a file: where it stands. */
  place?: (filePath: readonly PropertyKey[]) => Place
}

/** Which layer each setting, and each mapping and list around it, has last been in. */
export class Owners {
  layer: Layer | undefined
  readonly #inside = new Map<PropertyKey, Owners>()

  /** Those of what is under a key. */
  under(key: PropertyKey): Owners {
    const known = this.#inside.get(key)
    if (known) return known
    const own = new Owners()
    this.#inside.set(key, own)
    return own
  }

  of(path: readonly PropertyKey[]): Layer | undefined {
    const { at, rest } = this.#along(path)
    return rest === 0 ? at.layer : undefined
  }

  /** Of the path, or of the nearest around it. */
  near(path: readonly PropertyKey[]): Layer | undefined {
    return this.#along(path).layer
  }

  /** The deepest on a path, how many keys of it are left, and the last layer on the way. */
  #along([key, ...rest]: readonly PropertyKey[]): { at: Owners; rest: number; layer: Layer | undefined } {
    const next = key === undefined ? undefined : this.#inside.get(key)
    if (!next) return { at: this, rest: key === undefined ? 0 : rest.length + 1, layer: this.layer }
    const found = next.#along(rest)
    return { ...found, layer: found.layer ?? this.layer }
  }

  /** What is here and inside is nobody's. */
  forget(): void {
    this.layer = undefined
    this.#inside.clear()
  }
}

/** All layers as one value. */
export function merged(layers: readonly Layer[]): { value: unknown; owners: Owners } {
  const owners = new Owners()
  let value: unknown
  for (const layer of layers) value = over(value, layer.value, layer, owners)
  return { value, owners }
}

function over(below: unknown, above: unknown, layer: Layer, owners: Owners): unknown {
  if (above === undefined) return below
  const item = above instanceof ListItem
  if (!(item && Array.isArray(below)) && !(isMapping(above) && isMapping(below))) owners.forget()
  if (above === null) return undefined
  owners.layer = layer
  if (item) {
    const list = Array.isArray(below) ? [...below] : []
    const { index, value } = above
    list[index] = over(list[index], value, layer, owners.under(index))
    // Without holes: they would be no values to a schema, nor to a reader.
    return Array.from(list)
  }
  // In a list null is a value: taking it out would move the others.
  if (Array.isArray(above)) {
    return above.map((each, i) => (each === null ? null : over(undefined, each, layer, owners.under(i))))
  }
  if (!isMapping(above)) return above
  const result = new Map(isMapping(below) ? Object.entries(below) : [])
  for (const [key, each] of Object.entries(above)) {
    const value = over(result.get(key), each, layer, owners.under(key))
    if (value === undefined) result.delete(key)
    else result.set(key, value)
  }
  return Object.fromEntries(result)
}

/** Where everything in a GGUF header stands: the map that mutations are drawn from. Written from the specification, not from the native reader. */

/** Structural damage to these always has to be found; the others are content. */
export const structuralKinds = ['count', 'length', 'type', 'dimension', 'offset'] as const
export type FieldKind = (typeof structuralKinds)[number] | 'magic' | 'version' | 'key' | 'name' | 'value' | 'padding'

export interface Field {
  kind: FieldKind
  at: number
  bytes: number
}

const SCALAR_BYTES = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8]
const STRING = 8
const ARRAY = 9

/** Fields of a well-formed file's header, in order and without gaps, the padding before the data included. */
export function headerFields(file: Buffer): Field[] {
  const fields: Field[] = []
  let at = 0
  const field = (kind: FieldKind, bytes: number) => {
    if (bytes > 0) fields.push({ kind, at, bytes })
    at += bytes
    return at - bytes
  }
  const u32 = (kind: FieldKind) => file.readUInt32LE(field(kind, 4))
  const u64 = (kind: FieldKind) => Number(file.readBigUInt64LE(field(kind, 8)))
  const text = (kind: FieldKind) => {
    const length = u64('length')
    return file.toString('utf8', field(kind, length), at)
  }
  const value = (type: number, array = false) => {
    if (type === STRING) text('value')
    else if (type === ARRAY && !array) {
      const element = u32('type')
      const count = u64('count')
      for (let i = 0; i < count; i++) value(element, true)
    } else field('value', SCALAR_BYTES[type]!)
  }

  field('magic', 4)
  u32('version')
  const tensors = u64('count')
  const entries = u64('count')
  let alignment = 32
  for (let i = 0; i < entries; i++) {
    const key = text('key')
    const start = at + 4
    value(u32('type'))
    if (key === 'general.alignment') alignment = file.readUInt32LE(start)
  }
  for (let i = 0; i < tensors; i++) {
    text('name')
    const dimensions = u32('count')
    for (let d = 0; d < dimensions; d++) u64('dimension')
    u32('type')
    u64('offset')
  }
  field('padding', (alignment - (at % alignment)) % alignment)
  return fields
}

/** The field that a byte belongs to. */
export function fieldAt(fields: Field[], at: number): Field {
  return fields.find((field) => at >= field.at && at < field.at + field.bytes)!
}

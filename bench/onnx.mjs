// Writes an ONNX model as protobuf bytes, as far as bench/gpu-peers.mjs needs it. Field numbers: onnx.proto of the ONNX specification.
const irVersion = 10
export const elementTypes = { float32: 1, uint8: 2, float16: 10 }

/** An unsigned number in groups of seven bits, the lowest first. */
function varint(number) {
  const out = []
  let left = number
  for (; left > 127; left = Math.floor(left / 128)) out.push((left % 128) | 128)
  return Buffer.from([...out, left])
}
const lengthOf = (part) => (Array.isArray(part) ? part.reduce((sum, one) => sum + lengthOf(one), 0) : part.length)
const message = (field, part) => [varint(field * 8 + 2), varint(lengthOf(part)), part]
const text = (field, string) => message(field, Buffer.from(string))
const integer = (field, number) => [varint(field * 8), varint(number)]
function float(field, number) {
  const bytes = Buffer.alloc(4)
  bytes.writeFloatLE(number)
  return [varint(field * 8 + 5), bytes]
}

/** AttributeProto: a string, a whole number, or `{ float }`. */
function attribute([name, value]) {
  if (typeof value === 'string') return [text(1, name), text(4, value), integer(20, 3)]
  if (typeof value === 'number') return [text(1, name), integer(3, value), integer(20, 2)]
  return [text(1, name), float(2, value.float), integer(20, 1)]
}

/** NodeProto; an input that is left out is ''. */
export const node = (type, domain, inputs, outputs, attributes = {}) => [
  inputs.map((name) => text(1, name)),
  outputs.map((name) => text(2, name)),
  text(4, type),
  Object.entries(attributes).map((entry) => message(5, attribute(entry))),
  text(7, domain)
]

/** TensorProto with the bytes of a typed array. */
export const tensor = (name, type, shape, data) => [
  shape.map((size) => integer(1, size)),
  integer(2, elementTypes[type]),
  text(8, name),
  message(9, Buffer.from(data.buffer, data.byteOffset, data.byteLength))
]

/** ValueInfoProto; a size that is a name may be any number. */
export function value(name, type, shape) {
  const sizes = shape.map((size) => message(1, typeof size === 'string' ? text(2, size) : integer(1, size)))
  return [text(1, name), message(2, message(1, [integer(1, elementTypes[type]), message(2, sizes)]))]
}

/** ModelProto of one graph. */
export function model({ nodes, initializers, inputs, outputs }) {
  const list = (field, parts) => parts.map((part) => message(field, part))
  const graph = [list(1, nodes), text(2, 'graph'), list(5, initializers), list(11, inputs), list(12, outputs)]
  const operators = [
    ['', 21],
    ['com.microsoft', 1]
  ].map(([domain, version]) => message(8, [text(1, domain), integer(2, version)]))
  return Buffer.concat([integer(1, irVersion), message(7, graph), operators].flat(Number.POSITIVE_INFINITY))
}

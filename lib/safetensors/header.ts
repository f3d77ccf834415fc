/**
 * The header of a safetensors file: 8 bytes of its length (little-endian), then JSON with the type, shape and place of every tensor, then their bytes.
 * Format: the safetensors README (huggingface/safetensors).
 */
import { invalid, isObject, parseObject, readRange, shown, shownValue, withFile } from './read-json.js'

/** Of the JSON: the largest known headers, of models with 50,000 tensors in one file, are a third of it. */
export const LARGEST_HEADER = 16 * 2 ** 20
const mostTensors = 2 ** 17
const mostDimensions = 8
const longestName = 1024

/** Bits of a value of each type. */
const bitsOf: Readonly<Record<string, number>> = {
  F64: 64,
  F32: 32,
  F16: 16,
  BF16: 16,
  I64: 64,
  I32: 32,
  I16: 16,
  I8: 8,
  U64: 64,
  U32: 32,
  U16: 16,
  U8: 8,
  BOOL: 8,
  C64: 64,
  F8_E4M3: 8,
  F8_E5M2: 8,
  F8_E8M0: 8,
  F6_E2M3: 6,
  F6_E3M2: 6,
  F4: 4
}

export interface StoredTensor {
  name: string
  /** As the file says it: `F16`, `F8_E4M3`, ... */
  dtype: string
  /** Outermost first. */
  shape: readonly number[]
  /** From the file's begin. */
  offset: number
  bytes: number
}

const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

/** One entry of the header. `data`: where the tensors' bytes begin, and how many there are. */
function tensorOf(name: string, entry: unknown, data: { at: number; bytes: number }, path: string): StoredTensor {
  const refuse = (reason: string): never => {
    throw invalid(path, `tensor ${shown(name)} ${reason}`, { tensor: shown(name) })
  }
  if (name === '' || name.length > longestName) refuse(`has a name of ${name.length} characters`)
  if (!isObject(entry)) return refuse('is no object')
  const { dtype, shape, data_offsets: offsets } = entry
  const bits = typeof dtype === 'string' && Object.hasOwn(bitsOf, dtype) ? bitsOf[dtype] : undefined
  if (bits === undefined) return refuse(`has the dtype ${shownValue(dtype)}, which the format has not`)
  if (!Array.isArray(shape) || shape.length > mostDimensions || !shape.every(isSize)) {
    return refuse(`has no shape of at most ${mostDimensions} dimensions`)
  }
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize)) return refuse('has no data_offsets')
  const [begin, end] = offsets as [number, number]
  if (begin > end || end > data.bytes) refuse(`lies at ${begin} to ${end} of ${data.bytes} bytes of data`)
  const bytes = (shape.reduce((product: number, size) => product * size, 1) * bits) / 8
  if (bytes !== end - begin) refuse(`has ${end - begin} bytes, and its shape and dtype ask for ${bytes}`)
  return { name, dtype: dtype as string, shape, offset: data.at + begin, bytes }
}

/** Every byte of the data belongs to one tensor. MODEL_FILE_INVALID {path, offset} for holes and overlaps. */
function checkPlaces(tensors: readonly StoredTensor[], data: { at: number; bytes: number }, path: string): void {
  let at = data.at
  for (const tensor of [...tensors].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)) {
    if (tensor.offset !== at) {
      const what = tensor.offset < at ? 'overlaps another' : `comes after ${tensor.offset - at} bytes of no tensor`
      throw invalid(path, `tensor ${shown(tensor.name)} ${what}`, { tensor: shown(tensor.name), offset: tensor.offset })
    }
    at += tensor.bytes
  }
  const left = data.at + data.bytes - at
  if (left > 0) throw invalid(path, `there are ${left} bytes after the last tensor`, { offset: at })
}

/**
 * The tensors of a header's JSON, in its order. `fileBytes`: of the whole file. MODEL_FILE_INVALID {path}: what is no such header, wrong shapes, types
 * and places, tensors that overlap or leave holes, bytes that no tensor has.
 */
export function parseHeader(json: Uint8Array, fileBytes: number, path: string): StoredTensor[] {
  const data = { at: 8 + json.length, bytes: fileBytes - 8 - json.length }
  const entries = Object.entries(parseObject(json, path, 'its header'))
  if (entries.length > mostTensors) throw invalid(path, `it has ${entries.length} tensors, ${mostTensors} are possible`)
  const tensors: StoredTensor[] = []
  for (const [name, entry] of entries) {
    if (name !== '__metadata__') tensors.push(tensorOf(name, entry, data, path))
    else if (!isObject(entry)) throw invalid(path, 'its __metadata__ is no object')
  }
  checkPlaces(tensors, data, path)
  return tensors
}

/** The tensors of a file, whose header is read whole, and its size. Those of withFile and parseHeader. */
export const readHeader = (path: string): Promise<{ tensors: StoredTensor[]; fileBytes: number }> =>
  withFile(path, async (file, fileBytes) => {
    if (fileBytes < 8) throw invalid(path, `it has ${fileBytes} bytes, too few for a safetensors file`)
    const length = (await readRange(file, path, 0, 8)).readBigUInt64LE()
    const most = BigInt(Math.min(LARGEST_HEADER, fileBytes - 8))
    if (length > most) throw invalid(path, `its header has ${length} bytes, ${most} are possible`, { offset: 0 })
    const json = await readRange(file, path, 8, Number(length))
    return { tensors: parseHeader(json, fileBytes, path), fileBytes }
  })

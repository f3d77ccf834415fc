/** Files as the addon sees them: an open GGUF file, and those that a tiered checkpoint is made of. */
import type { DType } from './values.js'

export interface GgufTensorInfo {
  name: string
  /** Name of the type (`Q4_0`), or `type 37` where it is unknown. */
  type: string
  /** Innermost dimension first, as the file has it. */
  shape: number[]
  bytes: number
  /** Type in its file, where it is converted as it is read. */
  stored?: string
  /** Rows are put together from several places of its files as they are read. */
  apart?: true
}

/** Tensors that lie in several files, as one GGUF file would have them: its header, and where each tensor's bytes are. */
export interface GatheredFiles {
  /** A GGUF header with its padding, and the bytes of the data behind it. */
  header: Uint8Array
  dataBytes: number
  files: string[]
  /** Their sizes when the places were read: FILE_READ_FAILED for another. */
  fileBytes: Float64Array
  /** Of each tensor: the id of the type in its files (F32, F16, BF16, or MXFP4 with scales), half the rows of a head whose rows are to be paired (0: none). */
  stored: Uint32Array
  halfHead: Uint32Array
  /** Of each tensor: weights from one row of a part to the next (0: they follow one another), from one weight of a row to the next; its parts. */
  rowStep: Float64Array
  columnStep: Float64Array
  parts: Uint32Array
  /** Of each part of all tensors, in order: its file and place. Parts have equal shares of a tensor's rows. */
  partFile: Uint32Array
  partOffset: Float64Array
  /** Of each part of all tensors stored as MXFP4: the scales of its blocks, a byte each. The part has 16 bytes of codes for each. */
  scaleFile: Uint32Array
  scaleOffset: Float64Array
}

export type GgufMetadataValue = string | number | boolean | string[] | number[] | boolean[]

/** An open GGUF file: its whole header, checked. Closed by `close` or by garbage collection. */
export interface NativeGguf {
  readonly path: string
  readonly version: number
  readonly fileBytes: number
  readonly metadata: Record<string, GgufMetadataValue>
  readonly tensors: GgufTensorInfo[]
  close(): void
}

/** A tensor in the layout of its role in memory. */
export interface WeightInfo {
  name: string
  /** The file's type; vectors are floats in memory, routers 32-bit integers. */
  type: DType
  columns: number
  /** 1 of a vector. */
  rows: number
  experts: number
  bytes: number
  /** Rows that a piece's first row is a multiple of. */
  groupRows: number
}

/** One matrix of an expert inside its blob. */
export interface ExpertPart {
  type: DType
  rows: number
  columns: number
  /** From the blob's begin. */
  offset: number
  bytes: number
}

/** What decides how an expert is laid out: the weight types, the model's width and that inside the expert. */
export interface ExpertShape {
  gate: DType
  up: DType
  down: DType
  width: number
  hidden: number
}

/** What an expert's blob looks like; `id` names the layout of the matrices. */
export interface ExpertLayout {
  id: string
  gate: ExpertPart
  up: ExpertPart
  down: ExpertPart
  bytes: number
}

/** A file of a tiered checkpoint, as it was written or found. SHA-256 in hexadecimal. */
export interface ShardFile {
  bytes: number
  sha256: string
}

/** The same with the sums of its blobs, in order. */
export interface ExpertsFile extends ShardFile {
  crc32c: Uint32Array
  blobSha256: string[]
}

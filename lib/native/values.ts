/** What native calls have in common: names of instruction sets and of types, facts of the machine, progress. */

/** Instruction sets that a kernel can be built for; `scalar` uses FMA instructions where the CPU has them. */
export type Isa = 'scalar' | 'avx2' | 'avx512' | 'neon'
/** Weight types, as GGUF names them. */
export type DType =
  | 'F32'
  | 'F16'
  | 'BF16'
  | 'Q8_0'
  | 'Q4_0'
  | 'Q4_1'
  | 'Q5_0'
  | 'Q5_1'
  | 'Q4_K'
  | 'Q5_K'
  | 'Q6_K'
  | 'MXFP4'
  | 'IQ4_NL'
  | 'IQ4_XS'
export type KvType = 'f16' | 'f32'

export interface CpuInfo {
  model: string
  /** Usable here, slowest first. */
  isas: Isa[]
  /** Features that were looked for, each found or not: fma, avx2, avx512vnni, ... */
  features: Record<string, boolean>
}

export interface Counters {
  liveBytes: number
  liveHandles: number
  openFiles: number
  activeJobs: number
}

/** A flag that native work looks at between small pieces of it (well under a millisecond apart). */
export interface NativeCancel {
  readonly cancelled: boolean
  cancel(): void
}

/** Memory that the system has granted: it counts in its limits, and no byte of it is resident. */
export interface NativeReservation {
  /** Grows or shrinks it; false where the system grants no more (then nothing has changed), and after `dispose`. */
  resize(bytes: number): boolean
  dispose(): void
}

export interface LoadProgress {
  tensor: string
  index: number
  count: number
  bytesDone: number
  bytesTotal: number
}

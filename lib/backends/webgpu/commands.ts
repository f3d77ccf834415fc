/** What goes into one submit. */
import type { GpuMemory } from './buffers.js'
import { usage } from './flags.js'

/** A launch with its buffers, made once and run as often as wanted. */
export interface BoundLaunch {
  readonly key: string
  readonly pipeline: GPUComputePipeline
  readonly group: GPUBindGroup
  readonly workgroups: readonly [number, number, number]
  /** Frees its params; the buffers are the caller's. */
  dispose(): void
}

/** In order: each sees what those before it wrote. */
export interface Commands {
  run(bound: BoundLaunch): void
  /** Offsets and sizes in multiples of 4. */
  copy(from: GPUBufferBinding, to: GPUBufferBinding): void
  /** Fills with zeros. */
  clear(what: GPUBufferBinding): void
  /** The bytes as they are then, once the submit is done. Rejects with what failed. */
  read(from: GPUBufferBinding): Promise<ArrayBuffer>
  readonly encoder: GPUCommandEncoder
}

/** A copy that is on its way to where it can be mapped. */
export interface StagedRead {
  staging: { buffer: GPUBuffer; made: Promise<void> }
  bytes: number
  resolve(data: ArrayBuffer): void
  reject(reason: unknown): void
}

const sizeOf = ({ buffer, offset = 0, size }: GPUBufferBinding): number => size ?? buffer.size - offset

/** Encodes, with as few passes as copies allow; gives the reads that are to be mapped after the submit. */
export function encodeCommands(
  encoder: GPUCommandEncoder,
  memory: GpuMemory,
  encode: (commands: Commands) => void
): StagedRead[] {
  const reads: StagedRead[] = []
  let pass: GPUComputePassEncoder | undefined
  // What the pass has set already: a call into the driver's library is a microsecond.
  let set: GPUComputePipeline | undefined
  const outside = () => {
    pass?.end()
    pass = undefined
    set = undefined
    return encoder
  }
  const commands: Commands = {
    get encoder() {
      return outside()
    },
    run: ({ pipeline, group, workgroups: [x, y, z] }) => {
      if (x * y * z === 0) return
      pass ??= encoder.beginComputePass()
      if (pipeline !== set) pass.setPipeline(pipeline)
      set = pipeline
      pass.setBindGroup(0, group)
      // Each argument is one more to convert.
      if (z > 1) pass.dispatchWorkgroups(x, y, z)
      else if (y > 1) pass.dispatchWorkgroups(x, y)
      else pass.dispatchWorkgroups(x)
    },
    copy: (from, to) => {
      outside().copyBufferToBuffer(from.buffer, from.offset ?? 0, to.buffer, to.offset ?? 0, sizeOf(from))
    },
    clear: (what) => outside().clearBuffer(what.buffer, what.offset ?? 0, sizeOf(what)),
    read: (from) => {
      const bytes = sizeOf(from)
      const staging = memory.take(bytes, usage.mapRead | usage.copyDst)
      outside().copyBufferToBuffer(from.buffer, from.offset ?? 0, staging.buffer, 0, bytes)
      return new Promise((resolve, reject) => reads.push({ staging, bytes, resolve, reject }))
    }
  }
  try {
    encode(commands)
  } catch (error) {
    // Nothing is submitted, so nothing is read.
    for (const { staging } of reads) {
      staging.made.catch(() => {})
      memory.give(staging.buffer)
    }
    throw error
  }
  outside()
  return reads
}

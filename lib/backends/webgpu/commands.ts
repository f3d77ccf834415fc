/** What goes into one submit. */
import type { GpuMemory, Made } from './buffers.js'
import { usage } from './flags.js'
import type { PassTimer } from './timer.js'

/** A launch with its buffers, made once and run as often as wanted. */
export interface BoundLaunch {
  readonly key: string
  readonly pipeline: GPUComputePipeline
  readonly group: GPUBindGroup
  readonly workgroups: readonly [number, number, number]
  /** Frees its params, when those that it was bound with are disposed of too; the buffers are the caller's. */
  dispose(): void
}

/** In order: each sees what those before it wrote. */
export interface Commands {
  /** `depth`: fewer workgroups along z than it was bound with. */
  run(bound: BoundLaunch, depth?: number): void
  /** Offsets and sizes in multiples of 4. */
  copy(from: GPUBufferBinding, to: GPUBufferBinding): void
  /** Fills with zeros. */
  clear(what: GPUBufferBinding): void
  /** The bytes as they are then, once the submit is done. Rejects with what failed. `room`: as for `staged`. */
  read(from: GPUBufferBinding, room?: number): Promise<ArrayBuffer>
  /**
   * A buffer to copy to; `data` are its bytes once the submit is done, at the begin of the memory `into`. Rejects as `read`. `room`: the buffer
   * is one for so many bytes, which reads of other lengths use again.
   */
  staged(bytes: number, into: ArrayBuffer, room?: number): { buffer: GPUBuffer; data: Promise<ArrayBuffer> }
}

/** A copy that is on its way to where it can be mapped. */
export interface StagedCopy {
  staging: Made
  bytes: number
}

export interface StagedRead extends StagedCopy {
  into: ArrayBuffer | undefined
  resolve(data: ArrayBuffer): void
  reject(reason: unknown): void
}

/** What a submit is to be read of. */
export interface Encoded {
  reads: StagedRead[]
  stamps: StagedCopy | undefined
}

const sizeOf = ({ buffer, offset = 0, size }: GPUBufferBinding): number => size ?? buffer.size - offset

/** Encodes, with as few passes as copies allow; the reads, and the stamps of `timer`, are to be mapped after the submit. */
export function encodeCommands(
  encoder: GPUCommandEncoder,
  memory: GpuMemory,
  encode: (commands: Commands) => void,
  timer: PassTimer | undefined
): Encoded {
  const reads: StagedRead[] = []
  timer?.begin()
  let pass: GPUComputePassEncoder | undefined
  // What the pass has set already: a call into the driver's library is a microsecond.
  let set: GPUComputePipeline | undefined
  const outside = () => {
    pass?.end()
    pass = undefined
    set = undefined
    return encoder
  }
  const staged = (bytes: number, room = 0): StagedCopy => {
    const staging = memory.take(Math.max(bytes, room), usage.mapRead | usage.copyDst)
    return { staging, bytes }
  }
  const stage = (from: GPUBufferBinding, room?: number): StagedCopy => {
    const copied = staged(sizeOf(from), room)
    outside().copyBufferToBuffer(from.buffer, from.offset ?? 0, copied.staging.buffer, 0, copied.bytes)
    return copied
  }
  const read = (copied: StagedCopy, into?: ArrayBuffer): Promise<ArrayBuffer> =>
    new Promise((resolve, reject) => reads.push({ ...copied, into, resolve, reject }))
  const commands: Commands = {
    run: ({ pipeline, group, workgroups: [x, y, most] }, depth = most) => {
      const z = Math.min(depth, most)
      if (x * y * z === 0) return
      pass ??= encoder.beginComputePass(timer?.pass())
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
    read: (from, room) => read(stage(from, room)),
    staged: (bytes, into, room) => {
      const copied = staged(bytes, room)
      return { buffer: copied.staging.buffer, data: read(copied, into) }
    }
  }
  try {
    encode(commands)
    const stamps = timer?.resolve(outside())
    return { reads, stamps: stamps && stage(stamps) }
  } catch (error) {
    // Nothing is submitted, so nothing is read.
    for (const { staging } of reads) {
      staging.made.catch(() => {})
      memory.give(staging.buffer, staging.made)
    }
    throw error
  } finally {
    outside()
  }
}

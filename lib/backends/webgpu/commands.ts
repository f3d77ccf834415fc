/** What goes into one submit. */
import type { GpuMemory } from './buffers.js'
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
  /** The bytes as they are then, once the submit is done; with `into` at the begin of this memory. Rejects with what failed. */
  read(from: GPUBufferBinding, into?: ArrayBuffer): Promise<ArrayBuffer>
  readonly encoder: GPUCommandEncoder
}

/** A copy that is on its way to where it can be mapped. */
export interface StagedCopy {
  staging: { buffer: GPUBuffer; made: Promise<void> }
  bytes: number
}

export interface StagedRead extends StagedCopy {
  into: ArrayBuffer | undefined
  resolve(data: ArrayBuffer): void
  reject(reason: unknown): void
}

const sizeOf = ({ buffer, offset = 0, size }: GPUBufferBinding): number => size ?? buffer.size - offset

/** Encodes, with as few passes as copies allow; gives the reads, and the stamps of `timer`, that are to be mapped after the submit. */
export function encodeCommands(
  encoder: GPUCommandEncoder,
  memory: GpuMemory,
  encode: (commands: Commands) => void,
  timer: PassTimer | undefined
): { reads: StagedRead[]; stamps: StagedCopy | undefined } {
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
  const stage = (from: GPUBufferBinding): StagedCopy => {
    const bytes = sizeOf(from)
    const staging = memory.take(bytes, usage.mapRead | usage.copyDst)
    outside().copyBufferToBuffer(from.buffer, from.offset ?? 0, staging.buffer, 0, bytes)
    return { staging, bytes }
  }
  const commands: Commands = {
    get encoder() {
      return outside()
    },
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
    read: (from, into) => {
      const copied = stage(from)
      return new Promise((resolve, reject) => reads.push({ ...copied, into, resolve, reject }))
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
      memory.give(staging.buffer)
    }
    throw error
  } finally {
    outside()
  }
}

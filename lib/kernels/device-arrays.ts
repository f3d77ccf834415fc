/** Arrays in GPU memory, and requests that may have them in place of typed arrays. */
import type { KernelName, KernelTable } from './requests.js'

/** Typed arrays by element. */
export interface HostArrays {
  f32: Float32Array
  i32: Int32Array
  u32: Uint32Array
  u8: Uint8Array
  i64: BigInt64Array
}
export type Element = keyof HostArrays

/** An array in the memory of one backend's GPU. Only that backend takes it. */
export interface DeviceArray<E extends Element = Element> {
  readonly element: E
  /** In elements. */
  readonly length: number
  /** A copy in host memory, after all calls made so far. */
  read(): Promise<HostArrays[E]>
  /** Frees its memory after all calls made so far; later calls with it throw VALIDATION_ERROR. */
  dispose(): void
}

/** The element of a typed array. */
export type ElementOf<T> = T extends Float32Array
  ? 'f32'
  : T extends Int32Array
    ? 'i32'
    : T extends Uint32Array
      ? 'u32'
      : T extends Uint8Array
        ? 'u8'
        : T extends BigInt64Array
          ? 'i64'
          : never

/** The same where every array may be one on the device. */
export type OnDevice<T> = T extends HostArrays[Element]
  ? T | DeviceArray<ElementOf<T>>
  : T extends object
    ? { [Key in keyof T]: OnDevice<T[Key]> }
    : T

/** A kernel of a GPU backend: outputs that are given as device arrays stay there, all others come back as typed arrays. */
export interface GpuKernelMethod<Name extends KernelName> {
  (request: KernelTable[Name]['request']): Promise<KernelTable[Name]['result']>
  (request: OnDevice<KernelTable[Name]['request']>): Promise<OnDevice<KernelTable[Name]['result']>>
}

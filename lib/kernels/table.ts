/** Tables of all kernels around one way to call them. */
import type { NativeAddonBackend, NativeBackend } from '../native.js'
import { reading, validationError } from '../validation.js'
import { prepare } from './calls.js'
import type { KernelName, KernelTable } from './requests.js'

/** Every kernel as a promise. Work runs in order, off the JavaScript thread; arrays must not be changed until it has settled. */
export type AsyncKernels = {
  [Name in KernelName]: (request: KernelTable[Name]['request']) => Promise<KernelTable[Name]['result']>
}
/** Every kernel on the calling thread. */
export type SyncKernels = {
  [Name in KernelName]: (request: KernelTable[Name]['request']) => KernelTable[Name]['result']
}

/** Every kernel made ready for one request: what comes back runs it, on the calling thread. */
export type PreparedKernels = {
  [Name in KernelName]: (request: KernelTable[Name]['request']) => () => KernelTable[Name]['result']
}

const names = Object.keys(prepare) as KernelName[]

type Call = (op: KernelName, args: readonly unknown[]) => unknown

type Use = (op: KernelName, args: readonly unknown[], result: (value: unknown) => unknown) => unknown

/** A table of kernels around one way to use their arguments. */
function tableOf(use: Use): unknown {
  return Object.fromEntries(
    names.map((name) => [
      name,
      (request: never) => {
        if (typeof request !== 'object' || request === null)
          throw validationError(name, 'the argument', request, 'an object')
        const { args, result } = reading(name, () => prepare[name](request))
        return use(name, args, result)
      }
    ])
  )
}

/** Kernels that the backend runs off the JavaScript thread. */
export const asyncTable = (handle: NativeBackend): AsyncKernels =>
  tableOf(async (op, args, result) => result(await handle.callAsync(op, args, false))) as AsyncKernels

/** Kernels that `call` runs at once. */
export const syncTable = (call: Call): SyncKernels =>
  tableOf((op, args, result) => result(call(op, args))) as SyncKernels

/** Kernels that check their arguments once. */
export const preparedTable = (handle: NativeAddonBackend): PreparedKernels =>
  tableOf((op, args, result) => {
    const prepared = handle.prepare(op, args)
    return () => result(handle.callPrepared(prepared, args))
  }) as PreparedKernels

/** Tables of all kernels around one way to call them. */
import type { NativeBackend } from '../native.js'
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

const names = Object.keys(prepare) as KernelName[]

type Call = (op: KernelName, args: readonly unknown[]) => unknown

/** A table of kernels around one way to call them. */
function tableOf(call: Call, settle: (returned: unknown, result: (value: unknown) => unknown) => unknown): unknown {
  return Object.fromEntries(
    names.map((name) => [
      name,
      (request: never) => {
        if (typeof request !== 'object' || request === null)
          throw validationError(name, 'the argument', request, 'an object')
        const { args, result } = reading(name, () => prepare[name](request))
        return settle(call(name, args), result)
      }
    ])
  )
}

/** Kernels that the backend runs off the JavaScript thread. */
export const asyncTable = (handle: NativeBackend): AsyncKernels =>
  tableOf(
    (op, args) => handle.callAsync(op, args, false),
    async (returned, result) => result(await returned)
  ) as AsyncKernels

/** Kernels that `call` runs at once. */
export const syncTable = (call: Call): SyncKernels =>
  tableOf(call, (returned, result) => result(returned)) as SyncKernels

/**
 * Kernel-level interface: each operation of a Mixture-of-Experts layer on caller-owned typed arrays, zero-copy and checked.
 *
 *     const backend = openBackend('cpu', { threads: 2 })
 *     const { ids, weights } = await backend.route({ states, router, routerExponent, experts: 64, k: 8, positions })
 *
 * Every backend has the asynchronous form; the CPU backend also has `sync` (on the calling thread) and `naive` (the reference that a
 * reader can check by eye, on weights in the file's layout). All forms give the same bits on every instruction set.
 */
import { createError, isEngineError } from './errors/index.js'
import { prepare, preparePack, prepareRouter } from './kernels/calls.js'
import type { KernelName, KernelTable, Matrix } from './kernels/requests.js'
import type { Isa, NativeBackend } from './native.js'
import { native } from './native.js'
import { unreadable, validationError } from './validation.js'

export { dtypes, kvCacheBytes, packedBytes } from './kernels/layout.js'
export type * from './kernels/requests.js'
export type { DType, Isa, KvType } from './native.js'
export type { Carry, ExpertRank, RankGroupOptions, RankTokens } from './ranks/group.js'
export { RankGroup } from './ranks/group.js'
export type { Segment, SegmentArrays, SegmentHeader } from './ranks/segment.js'
export { type ExpertShare, expertShares } from './ranks/share.js'

/** Every kernel as a promise. Work runs in order, off the JavaScript thread; arrays must not be changed until it has settled. */
export type AsyncKernels = {
  [Name in KernelName]: (request: KernelTable[Name]['request']) => Promise<KernelTable[Name]['result']>
}
/** Every kernel on the calling thread. */
export type SyncKernels = {
  [Name in KernelName]: (request: KernelTable[Name]['request']) => KernelTable[Name]['result']
}

export interface BackendOptions {
  /** Worker threads of the asynchronous form, 1 to 1024; default 1. */
  threads?: number
  /** Default: the fastest here, or what TIERED_MOE_ISA names. */
  isa?: Isa | 'auto'
}

export interface KernelBackend extends AsyncKernels {
  readonly name: 'cpu'
  readonly isa: Isa
  readonly threads: number
  readonly sync: SyncKernels
  readonly naive: SyncKernels
  /** The instruction set that each kernel resolved to. */
  kernels(): Record<string, Isa>
  /** Repacks a matrix, or several experts' one after another, from the file's layout into the kernels'. */
  pack(matrix: Matrix, experts?: number): Matrix
  /** Router weights [experts][width] f32, finite, as 24-bit integers with one exponent: w ≈ q · 2^(exponent - 23). */
  packRouter(weights: Float32Array): { router: Int32Array; routerExponent: number }
  /** Ends the threads once the work under way is done; later calls throw. */
  dispose(): void
}

const names = Object.keys(prepare) as KernelName[]

type Call = (op: KernelName, args: readonly unknown[]) => unknown

/** What `read` makes of a request. VALIDATION_ERROR where reading it fails: a getter that throws, a bigint where a number belongs. */
function reading<Result>(subject: string, read: () => Result): Result {
  try {
    return read()
  } catch (error) {
    throw isEngineError(error) ? error : unreadable(subject, error)
  }
}

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

/**
 * Opens a backend. Throws BACKEND_UNAVAILABLE for a name other than `cpu`, ISA_UNSUPPORTED, VALIDATION_ERROR,
 * RESOURCE_MEMORY_EXHAUSTED (no thread could be started).
 */
export function openBackend(name: 'cpu', options: BackendOptions = {}): KernelBackend {
  if (name !== 'cpu') {
    throw createError('BACKEND_UNAVAILABLE', `backend '${String(name)}' is not in this version`, {
      backend: String(name),
      available: ['cpu']
    })
  }
  if (typeof options !== 'object' || options === null)
    throw validationError('openBackend', 'options', options, 'an object')
  const { threads = 1, isa = 'auto' } = options
  const handle: NativeBackend = native().createBackend({ threads, isa })
  const run = (settle: (returned: unknown, result: (value: unknown) => unknown) => unknown, call: Call) =>
    tableOf(call, settle)
  const now = (returned: unknown, result: (value: unknown) => unknown) => result(returned)
  const later = async (returned: unknown, result: (value: unknown) => unknown) => result(await returned)

  return {
    ...(run(later, (op, args) => handle.callAsync(op, args, false)) as AsyncKernels),
    name,
    isa: handle.isa,
    threads: handle.threads,
    sync: run(now, (op, args) => handle.call(op, args, false)) as SyncKernels,
    naive: run(now, (op, args) => handle.call(op, args, true)) as SyncKernels,
    kernels: () => handle.kernels(),
    pack: (matrix, experts = 1) => {
      if (typeof matrix !== 'object' || matrix === null) throw validationError('pack', 'matrix', matrix, 'an object')
      const { args, out } = reading('pack', () =>
        preparePack(matrix.type, matrix.rows, matrix.columns, experts, matrix.data)
      )
      handle.call('pack', args, false)
      return { ...matrix, data: out }
    },
    packRouter: (weights) => {
      const { args, router } = reading('packRouter', () => prepareRouter(weights))
      const routerExponent = handle.call('packRouter', args, false) as number
      return { router, routerExponent }
    },
    dispose: () => handle.dispose()
  }
}

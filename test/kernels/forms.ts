/**
 * Every way in which a kernel can run here (instruction set × synchronous or on 1 to 3 threads), compared with the naive twin. With
 * TIERED_MOE_TEST_BACKEND=cuda the one form is that of CUDA (scripts/test-cuda.mjs), which has to give the same bits.
 */

import type { Test } from 'tap'
import { isEngineError } from 'tiered-moe'
import type { Isa, KernelBackend, KernelName, KernelTable, Matrix } from 'tiered-moe/kernels'
import { openBackend } from 'tiered-moe/kernels'
import { firstDifference, Memory, type Numbers } from './memory.js'

type Request<Name extends KernelName> = KernelTable[Name]['request']
type Result<Name extends KernelName> = KernelTable[Name]['result']

interface Form {
  name: string
  run<Name extends KernelName>(kernel: Name, request: Request<Name>): Promise<Result<Name>> | Result<Name>
}

const everyIsa: Isa[] = ['scalar', 'avx2', 'avx512', 'neon']
const threadCounts = [1, 2, 3]

type Call = (request: object) => unknown
const call = (table: unknown, kernel: KernelName, request: object): unknown =>
  (table as Record<KernelName, Call>)[kernel](request)

/** The numbers that a kernel gave, by name. */
function arraysOf(result: unknown): [string, Numbers][] {
  if (ArrayBuffer.isView(result)) return [['out', result as Numbers]]
  const entries = Object.entries(result as object).filter(([, value]) => value !== undefined)
  return entries.flatMap(([name, value]): [string, Numbers][] => {
    if (ArrayBuffer.isView(value)) return [[name, value as Numbers]]
    if (typeof value === 'number') return [[name, Float32Array.of(value)]]
    return arraysOf(value).map(([inner, numbers]) => [`${name}.${inner}`, numbers])
  })
}

export interface Case<Name extends KernelName> {
  /** The request, in memory of its own for every run; `naive`: with weights in the file's layout. */
  request: (memory: Memory, naive: boolean) => Request<Name>
  /** Arrays that the kernel changes besides its result. */
  also?: (request: Request<Name>) => Record<string, Numbers>
  /** Length of a row, for the coordinate that a failure prints. */
  row?: number
}

function cudaForm(test: Test): Form {
  const opening = openBackend('cuda')
  test.teardown(async () => (await opening).dispose())
  return { name: 'cuda', run: async (kernel, request) => call(await opening, kernel, request) as never }
}

export class Forms {
  readonly backend: KernelBackend
  readonly all: Form[] = []
  readonly isas: Isa[] = []
  /** Where assertions go: the subtest that runs. */
  #test: Test

  constructor(test: Test) {
    this.#test = test
    test.beforeEach((inner) => {
      this.#test = inner
    })
    const opened: KernelBackend[] = []
    test.teardown(() => {
      for (const backend of opened) backend.dispose()
    })
    if (process.env.TIERED_MOE_TEST_BACKEND === 'cuda') {
      this.backend = openBackend('cpu')
      opened.push(this.backend)
      this.all.push(cudaForm(test))
      return
    }
    for (const isa of everyIsa) {
      try {
        for (const threads of threadCounts) opened.push(openBackend('cpu', { isa, threads }))
        this.isas.push(isa)
      } catch (error) {
        if (!isEngineError(error) || error.code !== 'ISA_UNSUPPORTED') throw error
        test.comment(`skipped: this CPU or build has no ${isa}`)
      }
    }
    for (const backend of opened) {
      if (backend.threads === 1) {
        this.all.push({
          name: `${backend.isa}, sync`,
          run: (kernel, request) => call(backend.sync, kernel, request) as never
        })
      }
      this.all.push({
        name: `${backend.isa}, async on ${backend.threads}`,
        run: (kernel, request) => call(backend, kernel, request) as never
      })
    }
    this.backend = opened[0]!
  }

  /** A matrix as a request wants it: packed for the kernels, as it is for the naive twin. */
  matrix(memory: Memory, name: string, matrix: Matrix, naive: boolean, experts = 1): Matrix {
    const own = naive ? matrix : this.packed(matrix, experts)
    return { ...own, data: memory.input(name, own.data) }
  }

  readonly #packed = new WeakMap<Matrix, Matrix>()
  packed(matrix: Matrix, experts = 1): Matrix {
    const known = this.#packed.get(matrix) ?? this.backend.pack(matrix, experts)
    this.#packed.set(matrix, known)
    return known
  }

  /** Runs the naive twin. Reports damage to memory around its arrays. */
  naive<Name extends KernelName>(kernel: Name, label: string, { request, also }: Case<Name>) {
    const memory = new Memory()
    const own = request(memory, true)
    const result = call(this.backend.naive, kernel, own) as Result<Name>
    const damage = memory.damage()
    if (damage) this.#test.fail(`${kernel} ${label}: the naive twin wrote outside its outputs: ${damage}`)
    return { request: own, result, arrays: [...arraysOf(result), ...Object.entries(also?.(own) ?? {})] }
  }

  /** One assertion: every form gives the bits of the naive twin and touches nothing but its outputs. Returns what the twin gave. */
  async sameBits<Name extends KernelName>(kernel: Name, label: string, one: Case<Name>) {
    const expected = this.naive(kernel, label, one)
    const failure = await this.#firstFailure(kernel, one, new Map(expected.arrays))
    this.#test.equal(failure, undefined, `${kernel} ${label}: the same bits in ${this.all.length} forms`)
    return expected
  }

  async #firstFailure<Name extends KernelName>(kernel: Name, one: Case<Name>, expected: Map<string, Numbers>) {
    for (const form of this.all) {
      const memory = new Memory()
      const request = one.request(memory, false)
      const result = await form.run(kernel, request)
      const got = [...arraysOf(result), ...Object.entries(one.also?.(request) ?? {})]
      if (got.length !== expected.size) return `${form.name}: ${got.length} outputs, expected ${expected.size}`
      for (const [name, numbers] of got) {
        const wrong = firstDifference(name, numbers, expected.get(name)!, one.row)
        if (wrong) return `${form.name}: ${wrong}`
      }
      const damage = memory.damage()
      if (damage) return `${form.name}: ${damage}`
    }
    return undefined
  }

  /** One assertion: every form and the naive twin fail with this code (and token), and touch nothing but outputs. */
  async sameError<Name extends KernelName>(
    kernel: Name,
    label: string,
    one: Case<Name>,
    code: string,
    details: Record<string, unknown> = {}
  ) {
    const twin: Form = { name: 'naive', run: (name, request) => call(this.backend.naive, name, request) as never }
    let failure: string | undefined
    for (const form of [twin, ...this.all]) {
      const memory = new Memory()
      const found = await attempt(async () => form.run(kernel, one.request(memory, form === twin)))
      failure ??= found.describe(code, details) ?? memory.damage()
      if (failure) {
        failure = `${form.name}: ${failure}`
        break
      }
    }
    this.#test.equal(failure, undefined, `${kernel} ${label}: ${code} in ${this.all.length + 1} forms`)
  }
}

/** What a call ended in. */
async function attempt(work: () => Promise<unknown>) {
  let error: unknown
  try {
    await work()
  } catch (thrown) {
    error = thrown
  }
  return {
    describe(code: string, details: Record<string, unknown>): string | undefined {
      if (!error) return 'no error'
      if (!isEngineError(error)) return `not a typed error: ${String(error)}`
      if (error.code !== code) return `${error.code}: ${error.message}`
      for (const [key, value] of Object.entries(details))
        if (error.details[key] !== value)
          return `details.${key} is ${String(error.details[key])}, expected ${String(value)}`
      return undefined
    }
  }
}

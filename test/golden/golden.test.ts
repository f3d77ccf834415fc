/** Every kernel on every instruction set and thread count gives the frozen bits of test/golden/*.json (scripts/golden.mjs writes them). */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import type { KernelName, Matrix } from 'tiered-moe/kernels'
import { root } from '../fixtures/package.js'
import { Forms } from '../kernels/forms.js'

type Request = Record<string, unknown>
interface Cases {
  kernels: KernelName[]
  caseNames(kernel: KernelName): string[]
  request(kernel: KernelName, name: string): Request
  changed: Partial<Record<KernelName, (request: Request) => object>>
  packedFields: Partial<Record<KernelName, Record<string, number>>>
}
interface Frozen {
  freeze(result: unknown): object
  inputHash(request: Request): string
}
interface GoldenFile {
  kernel: KernelName
  cases: Record<string, { input: string; output: object }>
}

// Plain JavaScript, shared with the script that writes the files.
const folder = join(root, 'test/golden')
const load = (name: string) => import(pathToFileURL(join(folder, name)).href)
const { kernels, caseNames, request, changed, packedFields } = (await load('cases.mjs')) as Cases
const { freeze, inputHash } = (await load('frozen.mjs')) as Frozen

const forms = new Forms(t)
const files = readdirSync(folder)
  .filter((name) => name.endsWith('.json'))
  .map((name) => JSON.parse(readFileSync(join(folder, name), 'utf8')) as GoldenFile)

/** The request with its matrices in the kernels' layout. */
function packed(kernel: KernelName, own: Request): Request {
  const fields = Object.entries(packedFields[kernel] ?? {})
  const matrices = fields.map(([field, experts]) => [field, forms.backend.pack(own[field] as Matrix, experts)])
  return { ...own, ...Object.fromEntries(matrices) }
}

t.test('there is a file for every kernel', async (test) => {
  test.same(files.map(({ kernel }) => kernel).sort(), [...kernels].sort())
  test.same([...kernels].sort(), Object.keys(forms.backend.sync).sort())
})

for (const { kernel, cases } of files) {
  t.test(kernel, async (test) => {
    test.same(Object.keys(cases), caseNames(kernel), 'every case is frozen')
    for (const [name, { input, output }] of Object.entries(cases)) {
      test.equal(inputHash(request(kernel, name)), input, `${name}: the inputs are those of the file`)
      const check = (form: string, own: Request, result: unknown) => {
        const got = { ...freeze(result), ...freeze(changed[kernel]?.(own) ?? {}) }
        test.same(got, output, `${name}: ${form}`)
      }
      const naive = request(kernel, name)
      check('naive', naive, forms.backend.naive[kernel](naive as never))
      for (const form of forms.all) {
        const own = packed(kernel, request(kernel, name))
        check(form.name, own, await form.run(kernel, own as never))
      }
    }
  })
}

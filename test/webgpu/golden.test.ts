/**
 * The golden cases of every kernel that the GPU has: integers and bytes are those of test/golden/*.json, floats within `goldenUnits` of the
 * tolerance table. The naive twin on the CPU, which golden.test.ts holds to the frozen bits, says what is expected.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import type { KernelName, Matrix } from 'tiered-moe/kernels'
import { openBackend } from 'tiered-moe/kernels'
import { root } from '../fixtures/package.js'
import { firstOff } from '../kernels/close.js'
import { goldenUnits } from '../kernels/tolerance.js'
import { openGpu } from './adapter.js'

type Request = Record<string, unknown>
type Call = (request: Request) => unknown
interface Cases {
  request(kernel: KernelName, name: string): Request
  changed: Partial<Record<KernelName, (request: Request) => object>>
  packedFields: Partial<Record<KernelName, Record<string, number>>>
}
interface Frozen {
  freeze(result: unknown): object
}
interface GoldenFile {
  kernel: KernelName
  cases: Record<string, { output: object }>
}

const folder = join(root, 'test/golden')
const load = (name: string) => import(pathToFileURL(join(folder, name)).href)
const { request, changed, packedFields } = (await load('cases.mjs')) as Cases
const { freeze } = (await load('frozen.mjs')) as Frozen
const files = readdirSync(folder)
  .filter((name) => name.endsWith('.json'))
  .map((name) => JSON.parse(readFileSync(join(folder, name), 'utf8')) as GoldenFile)

const gpu = await openGpu(t)

if (gpu) {
  const cpu = openBackend('cpu')
  t.teardown(() => cpu.dispose())
  const methods = gpu as unknown as Partial<Record<KernelName, Call>>
  const absent = files.map(({ kernel }) => kernel).filter((kernel) => !methods[kernel])
  t.same(absent, ['quantize'], 'what docs/webgpu.md says that a GPU has not')

  for (const { kernel, cases } of files) {
    const method = methods[kernel]
    if (!method) continue
    t.test(kernel, async (test) => {
      const units = goldenUnits[kernel]
      for (const [name, { output }] of Object.entries(cases)) {
        const plain = request(kernel, name)
        const result = (cpu.naive[kernel] as unknown as Call)(plain)
        const also = changed[kernel] ?? (() => ({}))
        test.same(
          { ...freeze(result), ...freeze(also(plain)) },
          output,
          `${name}: what is expected is the frozen result`
        )

        const own = request(kernel, name)
        for (const [field, experts] of Object.entries(packedFields[kernel] ?? {}))
          own[field] = gpu.pack(own[field] as Matrix, experts)
        const got = await method(own)
        test.equal(firstOff(got, result, units), undefined, name)
        test.equal(firstOff(also(own), also(plain), 0), undefined, `${name}: what it changes`)
      }
    })
  }
}

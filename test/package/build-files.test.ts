// Both build systems build the same addon: one list of sources, the same defines and the same flags.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const root = fileURLToPath(new URL('../..', import.meta.url))
const read = (path: string) => readFileSync(join(root, path), 'utf8')

/** The words of `set(NAME a b c)` in CMakeLists.txt. */
const cmakeList = (name: string) =>
  new RegExp(`set\\(${name} ([^)]*)\\)`).exec(read('CMakeLists.txt'))?.[1]?.split(/\s+/).filter(Boolean) ?? []

interface Target {
  sources: string[]
  include_dirs: string[]
  defines: string[]
  cflags: string[]
  cflags_cc: string[]
}
// binding.gyp is JSON with comments and trailing commas allowed; ours has neither.
const target = (JSON.parse(read('binding.gyp')) as { targets: Target[] }).targets[0] as Target

const listOf = (path: string) => read(path).split('\n').filter(Boolean)
const filesOf = (folder: string, pattern: RegExp) =>
  readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
    .map((path) => path.replaceAll('\\', '/'))
    .filter((path) => pattern.test(path))

t.test('the CUDA build has a list of its own, which names every file', async (t) => {
  t.same(listOf('csrc/cuda/sources.txt').sort(), filesOf('csrc/cuda', /\.(cu|cpp)$/).sort())
  t.match(read('csrc/cuda/kernels.cmake'), /sources\.txt/)
})

t.test('sources come from one list, which names every file', async (t) => {
  const listed = listOf('csrc/sources.txt')
  t.same(target.sources, ['<!@(node scripts/sources.cjs)'], 'binding.gyp reads the list')
  t.match(read('CMakeLists.txt'), /file\(STRINGS csrc\/sources\.txt/, 'CMakeLists.txt reads the list')
  const present = filesOf('csrc', /\.cpp$/)
    .filter((path) => !path.startsWith('cuda/'))
    .map((path) => `csrc/${path}`)
  t.same([...listed].sort(), present.sort(), 'every .cpp is listed once')
})

t.test('defines and flags are equal', async (t) => {
  t.same(cmakeList('TMOE_DEFINES').sort(), [...target.defines].sort())
  const standard = '-std=c++17'
  t.same(
    cmakeList('TMOE_FLAGS').sort(),
    [...target.cflags, ...target.cflags_cc].filter((flag) => flag !== standard).sort()
  )
  t.ok(target.cflags_cc.includes(standard))
  t.match(read('CMakeLists.txt'), /TMOE_GYP_LAST "[^"]* -std=c\+\+17"/)
})

t.test('floating point may not be rewritten by the compiler', async (t) => {
  for (const flags of [target.cflags, cmakeList('TMOE_FLAGS')]) {
    t.ok(flags.includes('-ffp-contract=off'))
    t.notOk(
      flags.some((flag) => /fast-math|Ofast|funsafe|march=/.test(flag)),
      'no flag that changes results or the baseline'
    )
  }
})

t.test('napi.h is included in one place', async (t) => {
  const including = readdirSync(join(root, 'csrc'), { recursive: true, encoding: 'utf8' })
    .filter((path) => /\.(cpp|h)$/.test(path))
    .filter((path) => /#include\s+[<"](napi|node_api|js_native_api)\.h/.test(read(join('csrc', path))))
  t.same(including, ['napi/setup.h'])
})

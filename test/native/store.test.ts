/**
 * The expert store alone, in C++: store_check.cpp is built from the addon's own sources with ThreadSanitizer, or from the objects of the addon that
 * has AddressSanitizer and UBSan (`npm run test:asan`), and runs against real files on the disk and in memory. Objects stay in build-check, so only
 * what has changed is compiled again.
 */
import { execFile, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync, statSync } from 'node:fs'
import { mkdtemp } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { root } from '../fixtures/package.js'

const run = promisify(execFile)
const [compiler, ...before] = (process.env.CXX ?? 'g++').split(' ') as [string, ...string[]]
const flags = [
  '-std=c++17',
  '-O1',
  '-g1',
  '-Wall',
  '-Wextra',
  '-Werror',
  '-fno-exceptions',
  '-pthread',
  '-Icsrc',
  '-MMD'
]
// The sanitizer of this process is not the compiler's, nor that of the check.
const { LD_PRELOAD: _, ...env } = process.env
/** What the store and the prefetcher are made of; they need neither Node nor kernels. */
const parts =
  /^csrc\/(core\/(store\/.*|prefetcher|file_errors|memory|model_file|status|threads|tie_hash|gathered_files|grid_read|gguf|gguf_header|gguf_keys|gguf_types)|quant\/.*)\.cpp$/
const sources = readFileSync(join(root, 'csrc/sources.txt'), 'utf8')
  .split('\n')
  .filter((line) => parts.test(line))

/** True where the object is newer than every file that went into it. */
function isCurrent(object: string): boolean {
  const list = object.replace(/o$/, 'd')
  if (!existsSync(object) || !existsSync(list)) return false
  const made = statSync(object).mtimeMs
  const inputs = readFileSync(list, 'utf8')
    .replace(/^.*?:/, '')
    .split(/[\s\\]+/)
    .filter(Boolean)
  return inputs.every((name) => (statSync(join(root, name), { throwIfNoEntry: false })?.mtimeMs ?? Infinity) < made)
}

/** Compiles what has changed of `own`, links it with `others`, objects, and returns the path of the check. */
async function build(name: string, sanitizer: string, own: string[], others: string[]): Promise<string> {
  const folder = join(root, 'build-check', `store-${name}`)
  mkdirSync(folder, { recursive: true })
  const queue = own.map((source) => ({ source, object: join(folder, `${source.replaceAll('/', '_')}.o`) }))
  const objects = queue.map(({ object }) => object)
  const worker = async () => {
    for (let next = queue.shift(); next; next = queue.shift()) {
      if (isCurrent(next.object)) continue
      await run(compiler, [...before, ...flags, sanitizer, '-c', next.source, '-o', next.object], { cwd: root, env })
    }
  }
  await Promise.all(Array.from({ length: availableParallelism() }, worker))
  const program = join(folder, 'store_check')
  await run(compiler, [...before, '-pthread', sanitizer, ...objects, ...others, '-o', program], { env })
  return program
}

const raised = {
  plain: ['FILE_READ_FAILED'],
  pool: ['RESOURCE_MEMORY_EXHAUSTED'],
  budget: ['RESOURCE_BUDGET_TOO_SMALL'],
  waves: ['CANCELLED'],
  cancel: ['CANCELLED'],
  brought: ['EXPERT_UNAVAILABLE'],
  damage: ['EXPERT_UNAVAILABLE', 'EXPERT_CORRUPTED', 'MODEL_CORRUPTED', 'MODEL_NOT_FOUND'],
  resize: ['CANCELLED'],
  scrub: ['RUNTIME_MEMORY_CORRUPTION']
}
const others = [
  'checksum',
  'sources',
  'order',
  'looks',
  'placed',
  'promoted',
  'stale',
  'late_check',
  'determinism',
  'guesses',
  'predictions'
]
const cases = [...others, ...Object.keys(raised)]

const check = 'test/native/store_check.cpp'
/** Under AddressSanitizer the addon is of the same objects. */
function buildAddresses(addon: string) {
  const folder = join(dirname(addon), 'tree/build/Release/obj.target/tiered_moe')
  const others = sources.map((source) => join(folder, source.replace(/cpp$/, 'o')))
  return build('addresses', '-fsanitize=address,undefined', [check], others)
}

// Where the tests themselves run under AddressSanitizer, that is the one.
const name = process.env.TIERED_MOE_SANITIZED ? 'addresses' : 'threads'
t.test(`the store under the sanitizer of ${name}`, async (t) => {
  const program =
    name === 'addresses'
      ? await buildAddresses(process.env.TIERED_MOE_ADDON!)
      : await build(name, '-fsanitize=thread', [...sources, check], [])
  // One folder on a disk, one in memory where the system has such a place.
  const places = [tmpdir(), '/dev/shm'].filter((place) => existsSync(place))
  const folders = await Promise.all(places.map((place) => mkdtemp(join(place, 'store-test-'))))
  t.teardown(() => folders.map((folder) => rmSync(folder, { recursive: true })))
  const { status, signal, stdout, stderr } = spawnSync(program, folders, { encoding: 'utf8', timeout: 120_000, env })
  t.equal(status, 0, `${signal ?? 'exit status'}\n${stderr}`)
  for (const one of cases) t.match(stdout, new RegExp(`^${one}: passed$`, 'm'))
  for (const [one, codes] of Object.entries(raised)) {
    for (const code of codes) t.match(stdout, new RegExp(`^${one}: ${code}$`, 'm'))
  }
})

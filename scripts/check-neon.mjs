// Links test/native/kernels_check.cpp with the addon's plain C++ (all but csrc/napi): for this machine with the addon's own objects, for AArch64
// with objects of a cross-compiler. Runs the second under qemu-user and compares the hashes: NEON must give the same bits.
// Debian: g++-aarch64-linux-gnu, qemu-user.
import { execFile, spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const run = promisify(execFile)
const sources = readFileSync(join(root, 'csrc', 'sources.txt'), 'utf8')
  .split('\n')
  .filter((line) => line && line !== 'csrc/addon.cpp' && !line.startsWith('csrc/napi/'))
const flags =
  '-std=c++17 -O3 -ffp-contract=off -fno-math-errno -fvisibility=hidden -fno-exceptions -Wall -Wextra -pthread'.split(
    ' '
  )

const program = 'test/native/kernels_check.cpp'

/** Compiles sources with one compiler, as many at a time as there are cores, and returns their objects. */
async function compile([compiler, ...before], folder, names) {
  mkdirSync(folder, { recursive: true })
  const queue = names.map((source) => [source, join(folder, `${source.replaceAll('/', '_')}.o`)])
  const objects = queue.map(([, object]) => object)
  const worker = async () => {
    for (let next = queue.shift(); next; next = queue.shift()) {
      await run(compiler, [...before, ...flags, '-Icsrc', '-c', next[0], '-o', next[1]], { cwd: root })
    }
  }
  await Promise.all(Array.from({ length: availableParallelism() }, worker))
  return objects
}

/** Links the check of objects, and returns its path. */
async function link([compiler, ...before], folder, objects) {
  const linked = join(folder, 'kernels_check')
  await run(compiler, [...before, '-static', '-pthread', ...objects, '-o', linked], { cwd: root })
  return linked
}

/** The check of the addon that `npm run build:addon` makes. */
async function buildHere() {
  // The compiler may be a wrapper too: `ccache g++`.
  const compiler = (process.env.CXX ?? 'g++').split(' ')
  const folder = join(root, 'build-check', 'native')
  await run(process.execPath, ['scripts/build-addon.mjs'], { cwd: root, maxBuffer: 1 << 26 })
  const own = sources.map((source) => join('build/Release/obj.target/tiered_moe', source.replace(/cpp$/, 'o')))
  return link(compiler, folder, [...(await compile(compiler, folder, [program])), ...own])
}

async function buildThere(compiler) {
  const folder = join(root, 'build-check', 'aarch64')
  return link([compiler], folder, await compile([compiler], folder, [...sources, program]))
}

/** Runs a check and returns its hashes; a failing one ends this script. */
function check(command, ...args) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8' })
  process.stderr.write(stderr ?? '')
  if (status === 0) return stdout
  console.error(`${command} ${args.join(' ')} failed: ${error?.message ?? `exit ${status}`}`)
  process.exit(1)
}

/** What does not compile ends this script with the compiler's own words. */
const built = (building) =>
  building.catch((cause) => {
    console.error(cause.stderr || String(cause))
    process.exit(1)
  })

const here = check(await built(buildHere()))
const cross = 'aarch64-linux-gnu-g++'
const missing = [cross, 'qemu-aarch64'].filter((name) => spawnSync(name, ['--version']).status !== 0)
if (missing.length) {
  console.log(`${here}skipped NEON: ${missing.join(' and ')} not found (Debian: g++-aarch64-linux-gnu, qemu-user)`)
  process.exit(process.env.CI ? 1 : 0)
}
const there = check('qemu-aarch64', await built(buildThere(cross)))
console.log(there.trimEnd())
console.log(here === there ? 'AArch64 gives the same hashes as this machine' : `hashes differ; this machine:\n${here}`)
process.exit(here === there ? 0 : 1)

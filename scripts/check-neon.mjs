// Builds the addon's plain C++ (all but csrc/napi) with test/native/kernels_check.cpp for this machine and for AArch64, runs the
// second under qemu-user, and compares the hashes: NEON must give the same bits. Debian: g++-aarch64-linux-gnu, qemu-user.
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

/** Compiles everything with one compiler and returns the path of the check. */
async function build(compiler, folder) {
  mkdirSync(folder, { recursive: true })
  const queue = [...sources, 'test/native/kernels_check.cpp'].map((source) => [
    source,
    join(folder, `${source.replaceAll('/', '_')}.o`)
  ])
  const objects = queue.map(([, object]) => object)
  const worker = async () => {
    for (let next = queue.shift(); next; next = queue.shift()) {
      await run(compiler, [...flags, '-Icsrc', '-c', next[0], '-o', next[1]], { cwd: root })
    }
  }
  await Promise.all(Array.from({ length: availableParallelism() }, worker))
  const program = join(folder, 'kernels_check')
  await run(compiler, ['-static', '-pthread', ...objects, '-o', program])
  return program
}

/** Runs a check and returns its hashes; a failing one ends this script. */
function check(command, ...args) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8' })
  process.stderr.write(stderr ?? '')
  if (status === 0) return stdout
  console.error(`${command} ${args.join(' ')} failed: ${error?.message ?? `exit ${status}`}`)
  process.exit(1)
}

/** As `build`; what does not compile ends this script with the compiler's own words. */
const built = (compiler, folder) =>
  build(compiler, folder).catch((cause) => {
    console.error(cause.stderr ?? String(cause))
    process.exit(1)
  })

const here = check(await built(process.env.CXX ?? 'g++', join(root, 'build-check', 'native')))
const cross = 'aarch64-linux-gnu-g++'
const missing = [cross, 'qemu-aarch64'].filter((name) => spawnSync(name, ['--version']).status !== 0)
if (missing.length) {
  console.log(`${here}skipped NEON: ${missing.join(' and ')} not found (Debian: g++-aarch64-linux-gnu, qemu-user)`)
  process.exit(process.env.CI ? 1 : 0)
}
const there = check('qemu-aarch64', await built(cross, join(root, 'build-check', 'aarch64')))
console.log(there.trimEnd())
console.log(here === there ? 'AArch64 gives the same hashes as this machine' : `hashes differ; this machine:\n${here}`)
process.exit(here === there ? 0 : 1)

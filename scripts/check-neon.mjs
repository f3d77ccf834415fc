// Links test/native/kernels_check.cpp with the addon's plain C++ (all but csrc/napi): for this machine with the addon's own objects, for AArch64
// with objects of a cross-compiler. Runs the second under qemu-user and compares the hashes: NEON must give the same bits.
// Debian: g++-aarch64-linux-gnu, qemu-user.
import { spawnSync } from 'node:child_process'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { addonObjects, compile, hostCompiler, link, sources } from './objects.mjs'

const folder = join(dirname(fileURLToPath(import.meta.url)), '..', 'build-check')
const program = 'test/native/kernels_check.cpp'
const plain = sources.filter((source) => source !== 'csrc/addon.cpp' && !source.startsWith('csrc/napi/'))
/** What computes is compiled as users have it; of the rest it matters that it compiles. */
const optimisation = (source) => (/^csrc\/(cpu|quant)\//.test(source) ? [] : ['-O0'])

/** The check of the addon that `npm run build:addon` makes. */
async function buildHere() {
  const objects = await addonObjects()
  const [own] = await compile(hostCompiler, join(folder, 'native'), [program])
  const linked = join(folder, 'native', 'kernels_check')
  return link(hostCompiler, linked, [own, ...plain.map((source) => objects.get(source))], '-static')
}

async function buildThere(compiler) {
  const own = await compile([compiler], join(folder, 'aarch64'), [program, ...plain], optimisation)
  return link([compiler], join(folder, 'aarch64', 'kernels_check'), own, '-static')
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

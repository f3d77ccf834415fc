// Builds the CPU addon with node-gyp into build/Release (what `npm ci` runs in a checkout).
//   node scripts/build-addon.mjs [--out DIR] [-- gyp variables, such as --defines=NAME --sanitize=address,undefined]
// --out copies the addon to DIR, so that a test build never replaces the real one.
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const args = process.argv.slice(2)
const at = args.indexOf('--out')
const out = at < 0 ? null : resolve(args.splice(at, 2)[1])
const gyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js')
const buildDir = out ?? root

if (out) mkdirSync(out, { recursive: true })
const run = (command) => {
  const extra = command === 'configure' ? ['--', ...args.filter((a) => a !== '--').map((a) => a.replace(/^--/, '-D'))] : []
  const options = command === 'build' ? [`--jobs=${availableParallelism()}`, '--silent'] : ['--silent']
  const { status } = spawnSync(process.execPath, [gyp, command, ...options, ...extra], { cwd: buildDir, stdio: 'inherit' })
  if (status !== 0) process.exit(status ?? 1)
}
run('configure')
run('build')
if (out && !existsSync(join(out, 'tiered_moe.node'))) copyFileSync(join(root, 'build/Release/tiered_moe.node'), join(out, 'tiered_moe.node'))

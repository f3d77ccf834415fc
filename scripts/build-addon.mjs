// Builds the CPU addon with node-gyp into build/Release (what `npm ci` runs in a checkout).
//   node scripts/build-addon.mjs [--out DIR] [-- gyp variables, such as --sanitize=address,undefined]
// With --out the addon becomes DIR/tiered_moe.node, so that a test build never replaces the real one.
import { spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, rmSync, symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { headersPrefix } from './node-headers.mjs'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const { values, positionals: variables } = parseArgs({ options: { out: { type: 'string' } }, allowPositionals: true })
const gyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js')

/** node-gyp always builds into ./build: another folder needs a source tree of its own, made of links. */
function linkedTree(folder) {
  mkdirSync(folder, { recursive: true })
  for (const name of ['binding.gyp', 'package.json', 'csrc', 'shaders', 'scripts', 'node_modules']) {
    rmSync(join(folder, name), { force: true })
    symlinkSync(join(root, name), join(folder, name))
  }
  return folder
}

const out = values.out === undefined ? undefined : resolve(values.out)
const cwd = out === undefined ? root : linkedTree(join(out, 'tree'))

const headers = headersPrefix ? [`--nodedir=${headersPrefix}`] : []

function run(command, ...args) {
  const { status } = spawnSync(process.execPath, [gyp, command, '--silent', ...headers, ...args], {
    cwd,
    stdio: 'inherit'
  })
  if (status !== 0) process.exit(status ?? 1)
}
run('configure', '--', ...variables.map((variable) => variable.replace(/^--/, '-D')))
run('build', `--jobs=${availableParallelism()}`)
if (out !== undefined) copyFileSync(join(cwd, 'build', 'Release', 'tiered_moe.node'), join(out, 'tiered_moe.node'))

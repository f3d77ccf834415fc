// Compiles lib/ twice: dist/esm (with the command line) and dist/cjs. Both import the one addon loader through "#addon".
// The old output is replaced only after both compiled, so that a failing build never leaves half a package.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync
} from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc')
const next = join(root, `build-lib.${process.pid}`)
mkdirSync(next)
process.on('exit', () => rmSync(next, { recursive: true, force: true }))

const compilers = ['esm', 'cjs'].map((format) => {
  const args = [tsc, '-p', join(root, `tsconfig.${format}.json`), '--outDir', join(next, format)]
  return once(spawn(process.execPath, args, { stdio: 'inherit' }), 'exit')
})
for (const [status] of await Promise.all(compilers)) if (status !== 0) process.exit(status ?? 1)
// "#addon" and "#webgpu" are looked up in the nearest package.json, and may not point outside of that folder.
const imports = { '#addon': './addon.cjs', '#webgpu': './webgpu.cjs' }
writeFileSync(join(next, 'cjs', 'package.json'), `${JSON.stringify({ type: 'commonjs', imports })}\n`)
for (const path of Object.values(imports)) {
  writeFileSync(join(next, 'cjs', path), `module.exports = require('../../${path.slice(2)}')\n`)
}
// The shaders for where there is no addon: lib/backends/webgpu/shader-texts.d.ts.
const shaders = readdirSync(join(root, 'shaders')).filter((name) => name.endsWith('.wgsl'))
const texts = shaders.sort().map((name) => [name.slice(0, -5), readFileSync(join(root, 'shaders', name), 'utf8')])
for (const [format, exported] of [
  ['esm', 'export const shaderTexts'],
  ['cjs', 'exports.shaderTexts']
]) {
  const path = join(next, format, 'backends', 'webgpu', 'shader-texts.js')
  writeFileSync(path, `${exported} = ${JSON.stringify(Object.fromEntries(texts), null, 2)}\n`)
}
copyFileSync(join(root, 'lib', 'live-page', 'page.html'), join(next, 'live-page.html'))
const cli = join(next, 'esm', 'cli', 'main.js')
if (existsSync(cli)) chmodSync(cli, 0o755)
rmSync(join(root, 'dist'), { recursive: true, force: true })
renameSync(next, join(root, 'dist'))

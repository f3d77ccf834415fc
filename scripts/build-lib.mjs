// Compiles lib/ twice: dist/esm and dist/cjs. Both import the one addon loader through "#addon".
import { spawnSync } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc')
rmSync(join(root, 'dist'), { recursive: true, force: true })
for (const [name, type, flags] of [
  ['esm', 'module', ['--module', 'NodeNext', '--moduleResolution', 'NodeNext']],
  ['cjs', 'commonjs', ['--module', 'CommonJS', '--moduleResolution', 'Node10', '--ignoreDeprecations', '5.0']]
]) {
  mkdirSync(join(root, 'dist', name), { recursive: true })
  const { status } = spawnSync(process.execPath, [tsc, '-p', join(root, `tsconfig.${name}.json`)], { stdio: 'inherit' })
  if (status !== 0) process.exit(status ?? 1)
  if (type === 'commonjs') writeFileSync(join(root, 'dist', name, 'package.json'), '{ "type": "commonjs" }\n')
}

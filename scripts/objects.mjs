// The addon's sources one by one, for checks that link their own program or addon of them.
import { execFile } from 'node:child_process'
import { mkdirSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const run = promisify(execFile)
const flags =
  '-std=c++17 -O3 -fPIC -ffp-contract=off -fno-math-errno -fvisibility=hidden -fno-exceptions -Wall -Wextra -pthread'

export const sources = readFileSync(join(root, 'csrc', 'sources.txt'), 'utf8')
  .split('\n')
  .filter(Boolean)
/** The compiler, which may be a wrapper too: `ccache g++`. */
export const hostCompiler = (process.env.CXX ?? 'g++').split(' ')

/** Builds the addon where that is needed, and returns the path that each of its sources, that of the shaders too, has as an object. */
export async function addonObjects() {
  await run(process.execPath, ['scripts/build-addon.mjs'], { cwd: root, maxBuffer: 1 << 26 })
  const target = join(root, 'build', 'Release', 'obj.target', 'tiered_moe')
  return new Map(
    [...sources, 'geni/embedded_shaders.cpp'].map((source) => [source, join(target, source.replace(/cpp$/, 'o'))])
  )
}

/** Compiles sources with one compiler, as many at a time as there are cores, and returns their objects. `more(source)`: flags of its own. */
export async function compile([compiler, ...before], folder, names, more = () => []) {
  mkdirSync(folder, { recursive: true })
  const queue = names.map((source) => [source, join(folder, `${source.replaceAll('/', '_')}.o`)])
  const objects = queue.map(([, object]) => object)
  const worker = async () => {
    for (let next = queue.shift(); next; next = queue.shift()) {
      const [source, object] = next
      const args = [...before, ...flags.split(' '), ...more(source), '-Icsrc', '-c', source, '-o', object]
      await run(compiler, args, { cwd: root })
    }
  }
  await Promise.all(Array.from({ length: availableParallelism() }, worker))
  return objects
}

/** Links objects to `path`, and returns that. */
export async function link([compiler, ...before], path, objects, ...more) {
  await run(compiler, [...before, '-pthread', ...more, ...objects, '-o', path], { cwd: root })
  return path
}

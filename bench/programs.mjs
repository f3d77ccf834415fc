// Compiles the small C++ programs of the benches once, into .bench/.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { addonObjects, compile, hostCompiler, link } from '../scripts/objects.mjs'
import { outputFolder, root } from './harness.mjs'

/** Path of bench/<name>.cpp's program, compiled when it is older than its source. `llama`: a llama.cpp checkout with its build/. */
export function compiled(name, llama) {
  const source = join(root, 'bench', `${name}.cpp`)
  const program = join(outputFolder, name)
  if (existsSync(program) && statSync(program).mtimeMs >= statSync(source).mtimeMs) return program
  mkdirSync(outputFolder, { recursive: true })
  const libraries = llama && join(llama, 'build', 'bin')
  const peer = llama
    ? [
        `-I${join(llama, 'include')}`,
        `-I${join(llama, 'ggml', 'include')}`,
        `-L${libraries}`,
        '-lllama',
        '-lggml',
        '-lggml-base',
        `-Wl,-rpath,${libraries}`
      ]
    : []
  const flags = ['-std=c++17', '-O3', '-march=native', '-pthread']
  const [compiler, ...before] = (process.env.CXX ?? 'g++').split(' ')
  execFileSync(compiler, [...before, ...flags, source, ...peer, '-o', program], {
    stdio: ['ignore', 'inherit', 'inherit']
  })
  return program
}

/** Path of bench/<name>.cpp's program with the CPU's kernels, linked of the addon's own objects. */
export async function kernelProgram(name) {
  const objects = await addonObjects()
  const source = `bench/${name}.cpp`
  const own = await compile(hostCompiler, join(outputFolder, 'objects'), [source], () => ['-march=native', '-w'])
  const parts = /^csrc\/(cpu\/|quant\/|core\/(elementary|memory|status|threads)\.)/
  const kernels = [...objects].filter(([path]) => parts.test(path)).map(([, object]) => object)
  return link(hostCompiler, join(outputFolder, name), [...own, ...kernels])
}

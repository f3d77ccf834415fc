// Compiles the small C++ programs of the benches once, into .bench/.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
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

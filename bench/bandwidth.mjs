// Compiles bench/bandwidth.cpp once and samples the read bandwidth with it.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { outputFolder, root } from './harness.mjs'

/** A function that samples the read bandwidth with so many threads, in bytes per second; undefined where no compiler is found. */
export function bandwidthSampler(threads) {
  const source = join(root, 'bench', 'bandwidth.cpp')
  const program = join(outputFolder, 'bandwidth')
  if (!existsSync(program) || statSync(program).mtimeMs < statSync(source).mtimeMs) {
    mkdirSync(outputFolder, { recursive: true })
    try {
      execFileSync(
        process.env.CXX ?? 'g++',
        ['-std=c++17', '-O3', '-march=native', '-pthread', source, '-o', program],
        { stdio: 'pipe' }
      )
    } catch (cause) {
      console.log(
        `no bandwidth sampled: ${
          String(cause.stderr ?? cause.message)
            .trim()
            .split('\n')[0]
        }`
      )
      return undefined
    }
  }
  return () => Number(execFileSync(program, [String(threads), '1024', '0.4'], { encoding: 'utf8' })) * 1e9
}

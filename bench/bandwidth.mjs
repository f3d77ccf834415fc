// Samples the read bandwidth with bench/bandwidth.cpp.
import { execFileSync } from 'node:child_process'
import { compiled } from './programs.mjs'

/** A function that samples the read bandwidth with so many threads, in bytes per second; undefined where no compiler is found. */
export function bandwidthSampler(threads) {
  let program
  try {
    program = compiled('bandwidth')
  } catch (cause) {
    console.log(`no bandwidth sampled: ${cause.message.split('\n')[0]}`)
    return undefined
  }
  return () => Number(execFileSync(program, [String(threads), '1024', '0.4'], { encoding: 'utf8' })) * 1e9
}

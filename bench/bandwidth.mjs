// Samples what this machine can do: the read bandwidth with bench/bandwidth.cpp, the int8 peak with bench/int8_peak.cpp.
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

/** A function that samples the int8 peak with so many threads, in operations per second; 0 where there is none. */
export function int8PeakSampler(threads) {
  const program = compiled('int8_peak')
  return () => Number(execFileSync(program, [String(threads)], { encoding: 'utf8' })) * 1e9
}

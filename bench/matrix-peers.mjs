// What bench/matrix.mjs measures in child processes, one run each: this package, and llama.cpp by its own programs and through node-llama-cpp.
// A request is `{ path, threads, sizes: { prompt, decode, depths, sequences, shortPrompt } }`.
import { spawn } from 'node:child_process'
import { rmSync } from 'node:fs'
import { lastLine } from './children.mjs'
import { runChild, runNodePeer, runSteps, stepsArguments } from './peers.mjs'

const larger = (a, b) => (b === undefined || a > b ? a : b)

/** This package: measure-steps' `speed`. */
export const measureOwn = ({ path, threads, sizes }) => runSteps('speed', path, { ...sizes, threads })

/** llama-bench: the better of flash attention on and off in each figure; the deepest is measureDeep's. */
export async function measureLlamaBench(program, { path, threads, sizes }) {
  const figures = { decodeAt: {} }
  const fixed = ['-m', path, ...`-t ${threads} -n ${sizes.decode} -fa on,off -r 1 -o json`.split(' ')]
  // What comes before a depth warms the weights up as well.
  const deep = `--no-warmup -p 0 -d ${sizes.depths.slice(0, -1).filter((depth) => depth > 0)}`
  for (const rest of [`-p ${sizes.prompt}`, deep]) {
    const { output } = await runChild(program, [...fixed, ...rest.split(' ')])
    for (const { avg_ts: rate, n_prompt: prompt, n_depth: depth } of JSON.parse(output)) {
      if (prompt) figures.prefill = larger(rate, figures.prefill)
      else figures.decodeAt[depth] = larger(rate, figures.decodeAt[depth])
    }
  }
  return figures
}

const flashForms = [1, 0]
const statePath = (path, depth, flash) => `${path}.${depth}-${flash ? 'flash' : 'plain'}.state`

/** llama.cpp at the deepest of the depths, the better of flash attention on and off: bench/peer_deep.cpp. */
export async function measureDeep(program, { path, threads, sizes: { depths, decode } }) {
  const depth = depths.at(-1)
  let rate
  for (const flash of flashForms) {
    const args = [path, depth, decode, threads, flash, statePath(path, depth, flash)]
    rate = larger(lastLine((await runChild(program, args.map(String))).output).rate, rate)
  }
  return { decodeAt: { [depth]: rate } }
}

/** Removes what measureDeep keeps beside a model's file. */
export function removeStates(path, { depths }) {
  for (const flash of flashForms) rmSync(statePath(path, depths.at(-1), flash), { force: true })
}

/** llama-batched-bench: sequences that each get one token a step, after a short prompt. */
export async function measureBatched(program, { path, threads, sizes }) {
  let together
  for (const flash of ['on', 'off']) {
    const { sequences, shortPrompt, decode } = sizes
    const context = sequences * (shortPrompt + decode + 64)
    const shape = `-npp ${shortPrompt} -ntg ${decode} -npl ${sequences} -c ${context}`
    const rest = `-t ${threads} -fa ${flash} ${shape} --output-format jsonl`
    // Its log now and then ends with the process before the line is written.
    for (let attempt = 1; attempt <= 10; attempt++) {
      const { output } = await runChild(program, ['-m', path, ...rest.split(' ')])
      const line = output.split('\n').find((text) => text.startsWith('{'))
      if (!line) continue
      together = larger(JSON.parse(line).speed_tg, together)
      break
    }
  }
  return { together }
}

/** node-llama-cpp, as its users have it or under `chrt -r 1`. */
export async function measureNode({ path, threads, sizes: { prompt, decode } }, realtime) {
  const run = await runNodePeer({ path, prompt, decode, threads, kvType: 'f16' }, realtime)
  return { prefill: run.prefill, decodeAt: { 0: run.decode0, [prompt]: run.decodeDeep } }
}

/** Seconds from a process's start to the line that it prints with its first token, and what the line says. */
function firstToken(command, args) {
  return new Promise((resolve, reject) => {
    const begin = performance.now()
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'ignore'] })
    let output = ''
    child.stdout.setEncoding('utf8').on('data', (text) => {
      output += text
      if (!output.endsWith('\n')) return
      child.kill('SIGKILL')
      resolve({ seconds: (performance.now() - begin) / 1000, ...lastLine(output) })
    })
    child.on('error', reject)
    child.on('close', (status) => reject(new Error(`${command} ended with ${status} before its first token`)))
  })
}

export const firstOwn = ({ path, threads, sizes }) =>
  firstToken(process.execPath, stepsArguments('first', path, { ...sizes, threads }))
export const firstPeer = (program, { path, threads, sizes }) =>
  firstToken(program, [path, ...[sizes.prompt, threads].map(String)])

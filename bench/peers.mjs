// The peers that bench/engine.mjs compares with, each run as a child process: figures and peak memory of one run.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { lastLine, runToEnd } from './children.mjs'
import { peakMemory, root } from './harness.mjs'

/** Where node-llama-cpp is looked for, and whether it is there. */
export const peerModules = process.env.PEER_NODE_MODULES ?? join(root, 'bench', 'node_modules')
export const hasNodePeer = existsSync(join(peerModules, 'node-llama-cpp'))

/** Runs a command and resolves to its standard output and the peak resident bytes that were seen; rejects with its last words. */
export async function runChild(command, args) {
  let [peakBytes, timer] = [0, undefined]
  const watch = (child) => {
    // Tens of microseconds ten times a second; the kernel keeps the peak itself.
    timer = setInterval(() => {
      peakBytes = Math.max(peakBytes, peakMemory(child.pid))
    }, 100)
  }
  const { status, signal, output, complaint } = await runToEnd(command, args, { onStart: watch }).finally(() =>
    clearInterval(timer)
  )
  if (status === 0) return { output, peakBytes }
  const words = complaint.trim().split('\n')
  const last = words.find((line) => /^\w*Error\b/.test(line)) ?? words.at(-1)
  throw new Error(`${command} ${args[0]} ended with ${signal ?? status}: ${last}`)
}

const better = (a, b) => (a === undefined || (b !== undefined && b > a) ? b : a)

/** The best of flash attention on and off, per figure. llama-bench has figures of its own repetitions; one a run is taken here. */
export async function runLlamaBench(program, { path, prompt, decode, threads, kvType }) {
  const figures = { byAttention: {} }
  let peakBytes = 0
  for (const depth of [0, prompt]) {
    const sizes = ['-p', String(depth ? 0 : prompt), '-n', String(decode), '-d', String(depth)]
    const types = ['-ctk', kvType, '-ctv', kvType, '-fa', 'on,off']
    const run = await runChild(program, [
      '-m',
      path,
      '-t',
      String(threads),
      ...types,
      ...sizes,
      '-r',
      '1',
      '-o',
      'json'
    ])
    peakBytes = Math.max(peakBytes, run.peakBytes)
    for (const row of JSON.parse(run.output)) {
      const name = row.n_prompt ? 'prefill' : depth ? 'decodeDeep' : 'decode0'
      figures[name] = better(figures[name], row.avg_ts)
      figures.byAttention[`${name} ${row.flash_attn ? 'on' : 'off'}`] = row.avg_ts
    }
  }
  return { ...figures, peakBytes }
}

/** node-llama-cpp in its own process; `realtime` puts it under `chrt -r 1`, where its spinning threads are not disturbed. */
export async function runNodePeer({ path, prompt, decode, threads, kvType }, realtime) {
  const args = [
    join(root, 'bench', 'measure-peer.mjs'),
    'speed',
    path,
    ...[prompt, decode, threads, kvType].map(String)
  ]
  const [command, ...rest] = realtime ? ['chrt', '-r', '1', process.execPath, ...args] : [process.execPath, ...args]
  return lastLine((await runChild(command, rest)).output)
}

export async function runOwn({ path, prompt, decode, threads, kvType, isa }) {
  const args = [join(root, 'bench', 'measure-own.mjs'), path, ...[prompt, decode, threads].map(String), kvType, isa]
  return lastLine((await runChild(process.execPath, args)).output)
}

/** Arguments of node for one of measure-steps' modes. */
export const stepsArguments = (mode, path, settings) => [
  join(root, 'bench', 'measure-steps.mjs'),
  mode,
  path,
  JSON.stringify(settings)
]
export const runSteps = async (mode, path, settings) =>
  lastLine((await runChild(process.execPath, stepsArguments(mode, path, settings))).output)

/** Greedy tokens and logits of llama.cpp for one prompt (bench/peer-agreement.mjs). */
export async function runPeerGreedy(path, count, kvType, ids) {
  const args = [join(root, 'bench', 'measure-peer.mjs'), 'greedy', path, String(count), kvType, ids.join()]
  const { tokens, logits } = lastLine((await runChild(process.execPath, args)).output)
  const rows = logits.map((text) => new Float32Array(new Uint8Array(Buffer.from(text, 'base64')).buffer))
  return { tokens, rows }
}

/** True where real-time scheduling may be asked for (it needs root or CAP_SYS_NICE). */
export const mayRunRealtime = () => spawnSync('chrt', ['-r', '1', 'true']).status === 0

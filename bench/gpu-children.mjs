// Child processes that run one side of bench/gpu-peers.mjs each, so that no driver or thread of the one disturbs the other's.
import { fork } from 'node:child_process'
import { join } from 'node:path'
import { root } from './harness.mjs'

/** Starts bench/`script`. `ask(request)` gives the answer to one request; a child that ends or fails rejects with its last words. */
export async function start(name, script, args = [], environment = {}) {
  const child = fork(join(root, 'bench', script), args, {
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
    env: { ...process.env, ...environment }
  })
  let words = ''
  child.stderr.setEncoding('utf8').on('data', (text) => {
    words = (words + text).slice(-2000)
  })
  const next = () =>
    new Promise((resolve, reject) => {
      const ended = (status, signal) => reject(new Error(`${name} ended with ${signal ?? status}: ${words}`))
      child.once('exit', ended)
      child.once('message', (answer) => {
        child.off('exit', ended)
        if (answer.error) reject(new Error(`${name}: ${answer.error}`))
        else resolve(answer)
      })
    })
  const { device } = await next()
  return {
    name,
    device,
    ask(request) {
      const answer = next()
      child.send(request)
      return answer
    },
    stop: () => child.kill()
  }
}

/** The loop of such a child: `device` is what it computes on, `answer(request)` gives the answer. */
export function serve(device, answer) {
  process.on('message', (request) => {
    answer(request).then(
      (reply) => process.send(reply),
      (cause) => process.send({ error: String(cause?.stack ?? cause) })
    )
  })
  process.send({ device })
}

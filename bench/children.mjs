// Child processes of the benches, run to their end.
import { spawn } from 'node:child_process'

/** {status, signal, output, complaint: its last words} of a command. It is killed after `seconds`; `onStart` gets the process. */
export function runToEnd(command, args, { seconds, onStart = () => {} } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    const timer = seconds && setTimeout(() => child.kill('SIGKILL'), seconds * 1000)
    let [output, complaint] = ['', '']
    child.stdout.setEncoding('utf8').on('data', (text) => {
      output += text
    })
    child.stderr.setEncoding('utf8').on('data', (text) => {
      complaint = (complaint + text).slice(-2000)
    })
    child.on('error', reject)
    child.on('close', (status, signal) => {
      clearTimeout(timer)
      resolve({ status, signal, output, complaint })
    })
    onStart(child)
  })
}

/** The JSON of the last line that a child wrote. */
export const lastLine = (output) => JSON.parse(output.trim().split('\n').at(-1))

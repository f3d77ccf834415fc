// Loaded into worker processes by --import: does what the file named by SABOTAGE says, where there is one.
import { existsSync, readdirSync, readFileSync, writeFileSync, writeSync } from 'node:fs'
import { readFile } from 'node:fs/promises'

const order = process.env.SABOTAGE && existsSync(process.env.SABOTAGE) ? readFileSync(process.env.SABOTAGE, 'utf8') : ''
if (order === 'exit') {
  process.stderr.write('the saboteur was here\n')
  process.exit(7)
}
if (order === 'hang') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
// What no frame begins with, on the channel.
process.on('SIGUSR2', () => writeSync(3, 'GET / HTTP/1.1\r\n\r\n'))
// The message that the file MESSAGE has, in a frame as it should be.
process.on('SIGHUP', async () => {
  const { encodeFrame } = await import('../../dist/esm/isolation/frames.js')
  writeSync(3, Buffer.concat(encodeFrame({ kind: 0, id: 0, payload: readFileSync(process.env.MESSAGE) })))
})
// Requests are refused while the file REFUSALS.<pid> is there, as of an engine that is frozen.
const { REFUSALS, THREADS } = process.env
if (REFUSALS) {
  const { LocalEngine } = await import('../../dist/esm/engine/local-engine.js')
  const { frozenError } = await import('../../dist/esm/engine/parts.js')
  const { createGenerator } = LocalEngine.prototype
  LocalEngine.prototype.createGenerator = function (...request) {
    if (existsSync(`${REFUSALS}.${process.pid}`)) throw frozenError('createGenerator', 1)
    return createGenerator.apply(this, request)
  }
}
// Writes down which threads there are before the engine's.
if (THREADS) {
  // libuv starts its own with the first read.
  await readFile('/proc/self/stat')
  writeFileSync(`${THREADS}.${process.pid}`, readdirSync('/proc/self/task').join('\n'))
}

// Loaded into worker processes by --import: does what the file named by SABOTAGE says, where there is one.
import { existsSync, readFileSync, writeSync } from 'node:fs'

const order = process.env.SABOTAGE && existsSync(process.env.SABOTAGE) ? readFileSync(process.env.SABOTAGE, 'utf8') : ''
if (order === 'exit') {
  process.stderr.write('the saboteur was here\n')
  process.exit(7)
}
if (order === 'hang') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)
// What no frame begins with, on the channel.
process.on('SIGUSR2', () => writeSync(3, 'GET / HTTP/1.1\r\n\r\n'))

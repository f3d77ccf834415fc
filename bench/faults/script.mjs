// A script in a process of its own, which uses the built package.
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { root } from '../harness.mjs'

/** What a script prints as JSON, of a process of its own. */
export const script = (text, folder = root) =>
  new Promise((resolve, reject) => {
    const main = JSON.stringify(join(folder, 'dist/esm/index.js'))
    execFile(
      process.execPath,
      ['--input-type=module', '-e', `import { createEngine } from ${main}\n${text}`],
      (error, stdout, stderr) => (stdout ? resolve(JSON.parse(stdout)) : reject(error ?? new TypeError(stderr)))
    )
  })

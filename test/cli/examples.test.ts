import { execFile } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { promisify } from 'node:util'
import t from 'tap'
import { notBuilt } from './command.js'

const run = promisify(execFile)
const skip =
  notBuilt || (existsSync('build/Release/tiered_moe.node') || process.env.TIERED_MOE_ADDON ? false : 'no addon')

t.test('every example runs and ends by itself', { skip }, async (t) => {
  const files = readdirSync('examples').filter((name) => name.endsWith('.mjs'))
  t.ok(files.length >= 4)
  for (const file of files) {
    const { stdout, stderr } = await run(process.execPath, [`examples/${file}`], { timeout: 60_000 })
    t.equal(stderr, '', file)
    t.ok(stdout.length > 100, file)
    t.notMatch(stdout, /DIFFERENT|: no failure/, file)
  }
})

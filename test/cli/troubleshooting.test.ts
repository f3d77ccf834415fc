/** docs/troubleshooting.md says what happens: its commands are run, and its codes have the statuses that it says. */
import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { catalog, type ErrorCode } from 'tiered-moe'
import { embedded, root } from '../fixtures/package.js'
import { MAIN, notBuilt } from './command.js'

const page = readFileSync(join(root, 'docs/troubleshooting.md'), 'utf8')
const rows = (pattern: RegExp) => [...page.matchAll(pattern)].map((match) => match.slice(1) as [string, string, string])

t.test('commands', { skip: notBuilt }, async (t) => {
  const folder = t.testdir({
    'page.html': '<!doctype html><title>404</title>',
    'half.gguf': '',
    'typo.yaml': 'models:\n  - model: tiny-shakespeare\n    context_lenght: 128\n',
    'broken.yaml': 'models:\n  - {model: a\n'
  })
  writeFileSync(join(folder, 'half.gguf'), readFileSync(embedded).subarray(0, 4_000_000))
  const commands = rows(/^\| `tiered-moe ([^`]+)` \| (\w+) \| (\d+) \|/gm)
  t.ok(commands.length >= 10)
  const check = async ([text, code, exit]: [string, string, string]): Promise<void> => {
    const args = text.split(' ').map((word) => (/\.(gguf|html|yaml)$/.test(word) ? join(folder, word) : word))
    // Without what tap loads into each process, which takes three times as long as the command.
    const { status, stderr } = await new Promise<{ status: unknown; stderr: string }>((done) => {
      execFile('env', ['-u', 'NODE_OPTIONS', process.execPath, MAIN, ...args], (error, _, stderr) =>
        done({ status: error?.code, stderr })
      )
    })
    t.same([/^ {2}code: (\w+)$/m.exec(stderr)?.[1], `${status}`], [code, exit], text)
  }
  for (let i = 0; i < commands.length; i += 2) await Promise.all(commands.slice(i, i + 2).map(check))
})

t.test('statuses', async (t) => {
  const statuses = rows(/^\| (\d+) \| (\w+) \|/gm)
  t.ok(statuses.length >= 10)
  for (const [status, code] of statuses) t.equal(catalog[code as ErrorCode]?.httpStatus, Number(status), code)
})

// The end of `npm test`: every code of the catalogue was raised by the library or its addon, in some process of some test, and every error had the
// details that its code promises. A code that only skipped tests name is told of; under CI=1 it is a failure like any other.
//   node scripts/check-raised.mjs --begin     forgets what was noted before
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { catalog } from '../dist/esm/errors/catalog.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const folder = process.env.TIERED_MOE_RAISED ?? join(root, 'node_modules', '.cache', 'raised')

/** Test files that reported a skip, with its reason. */
function skippedTests() {
  const results = join(root, '.tap', 'test-results')
  const skipped = new Map()
  if (!existsSync(results)) return skipped
  for (const name of readdirSync(results, { recursive: true, encoding: 'utf8' })) {
    if (!name.endsWith('.tap')) continue
    const reason = /# SKIP ?(.*)/i.exec(readFileSync(join(results, name), 'utf8'))?.[1]
    if (reason !== undefined) skipped.set(name.slice(0, -'.tap'.length), reason)
  }
  return skipped
}

function report() {
  const notes = existsSync(folder)
    ? readdirSync(folder).flatMap((name) => readFileSync(join(folder, name), 'utf8').split('\n').slice(0, -1))
    : []
  const raised = new Map()
  const problems = new Set()
  for (const { code, place, lacks } of notes.map((line) => JSON.parse(line))) {
    raised.set(code, place)
    if (lacks.length > 0) problems.add(`${code} was raised without details.${lacks.join(', details.')} at ${place}`)
  }
  const missing = Object.keys(catalog).filter((code) => !raised.has(code))
  const skipped = missing.length > 0 ? skippedTests() : new Map()
  for (const code of missing) {
    const tests = [...skipped].filter(([file]) => readFileSync(join(root, file), 'utf8').includes(`'${code}'`))
    const reasons = tests.map(([file, reason]) => `${file} (${reason})`)
    if (reasons.length > 0 && !process.env.CI)
      console.log(`not shown here: ${code}, as was skipped ${reasons.join(', ')}`)
    else problems.add(`${code} was raised by no test${reasons.length > 0 ? `: skipped was ${reasons.join(', ')}` : ''}`)
  }
  for (const problem of problems) console.log(`FAILED ${problem}`)
  console.log(
    `${raised.size} of ${Object.keys(catalog).length} codes of the catalogue were raised by the library under test`
  )
  return problems.size === 0
}

if (process.argv.includes('--begin')) rmSync(folder, { recursive: true, force: true })
else process.exitCode = report() ? 0 : 1

// Writes test/golden/*.json: what the naive twin of every kernel gives for the cases of test/golden/cases.mjs.
//   node scripts/golden.mjs            writes; then look at the difference: any changed bit is a change of the arithmetic contract
//   node scripts/golden.mjs --check    writes nothing, fails where a file would change
import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { openBackend } from 'tiered-moe/kernels'
import { caseNames, changed, kernels, request } from '../test/golden/cases.mjs'
import { freeze, inputHash } from '../test/golden/frozen.mjs'

const folder = fileURLToPath(new URL('../test/golden', import.meta.url))
const fileName = (kernel) => `${kernel.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}.json`
const about = [
  'Frozen results of the naive twin; inputs are made by test/golden/cases.mjs from the names of kernel and case, `input` is their SHA-256.',
  'Numbers are bits in hexadecimal. To regenerate: npm run build, then node scripts/golden.mjs.'
]

const checking = process.argv.includes('--check')
const backend = openBackend('cpu')
let stale = 0
for (const kernel of kernels) {
  const cases = Object.fromEntries(
    caseNames(kernel).map((name) => {
      const own = request(kernel, name)
      const input = inputHash(own)
      const result = backend.naive[kernel](own)
      return [name, { input, output: { ...freeze(result), ...freeze(changed[kernel]?.(own) ?? {}) } }]
    })
  )
  const path = join(folder, fileName(kernel))
  const text = JSON.stringify({ about, kernel, cases }, null, 2)
  if (!checking) writeFileSync(path, text)
  else if (JSON.stringify(JSON.parse(readFileSync(path, 'utf8')), null, 2) !== text) {
    stale++
    console.log(`${fileName(kernel)} would change`)
  }
}
backend.dispose()
if (!checking) execFileSync('npx', ['biome', 'format', '--write', folder], { stdio: 'ignore' })
console.log(`${kernels.length} kernels, ${kernels.reduce((n, kernel) => n + caseNames(kernel).length, 0)} cases`)
if (stale) process.exitCode = 1

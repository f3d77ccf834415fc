import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { CatalogEntry } from '../../lib/errors/index.js'
import { catalog, engineCodes } from '../../lib/errors/index.js'

const entries = Object.entries(catalog) as [string, CatalogEntry][]

t.test('docs/errors.md is what the catalogue says', async (t) => {
  const { status, stderr } = spawnSync(process.execPath, ['scripts/docs-errors.mjs', '--check'], { encoding: 'utf8' })
  t.equal(status, 0, stderr)
  const documented = [...readFileSync('docs/errors.md', 'utf8').matchAll(/^### (\w+)$/gm)].map(([, code]) => code!)
  t.same(documented.sort(), Object.keys(catalog).sort())
})

t.test('native codes are those of csrc/core/status.h', async (t) => {
  const list = /define TMOE_STATUS_CODES\(X\)([\s\S]*?)\n\n/.exec(readFileSync('csrc/core/status.h', 'utf8'))![1]!
  const codes = [...list.matchAll(/X\((\w+)\)/g)].map(([, code]) => code!)
  t.ok(codes.length > 10, 'the list was found')
  const own = entries.filter(([, entry]) => entry.native).map(([code]) => code)
  t.same(codes.filter((code) => code !== 'OK').sort(), own.sort())
})

t.test('every column of every entry is sound', async (t) => {
  const statuses = [400, 401, 403, 404, 408, 413, 429, 499, 500, 502, 503, 504]
  for (const [code, entry] of entries) {
    t.match(code, /^[A-Z]+(_[A-Z]+)+$|^(CANCELLED|UNAUTHORIZED|FORBIDDEN)$/, `${code} is UPPER_SNAKE_CASE`)
    t.ok(statuses.includes(entry.httpStatus), `${code}: HTTP ${entry.httpStatus}`)
    t.ok([1, 2, 124, 130, 137, 255].includes(entry.exitCode), `${code}: exit ${entry.exitCode}`)
    t.ok(entry.engineCode in engineCodes, `${code}: ${entry.engineCode}`)
    for (const name of entry.details.flatMap((names) => names.split('|'))) t.match(name, /^[a-z][A-Za-z0-9]*$/, code)
    if (entry.retry === 'after') t.ok(entry.details.includes('retryAfterSeconds'), `${code} says when`)
    t.ok(entry.meaning.endsWith('.') && entry.suggestedAction.endsWith('.'), `${code} has sentences`)
    if (entry.httpStatus < 429) t.equal(entry.retry, 'never', `${code}: the caller's faults are not retried`)
    if (entry.exitCode === 124) t.equal(entry.httpStatus, 504, `${code}: a timeout everywhere`)
    if (entry.severity === 'fatal') t.equal(entry.logLevel, 'error', `${code}: fatal is logged as an error`)
  }
  t.equal(new Set(Object.values(engineCodes)).size, Object.keys(engineCodes).length, 'one JSON-RPC code per name')
})

t.test('no code is in two areas', async (t) => {
  const areas = readdirSync('lib/errors/catalog').map((name) => readFileSync(join('lib/errors/catalog', name), 'utf8'))
  const listed = areas.flatMap((text) => [...text.matchAll(/^ {2}([A-Z_]+): \{$/gm)].map(([, code]) => code!))
  t.same(listed.sort(), Object.keys(catalog).sort())
})

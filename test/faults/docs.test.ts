/** `npm run faults` in short: its rows are sound, cover what they have to, and are those of docs/faults.md. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { catalog } from 'tiered-moe'
import { root } from '../fixtures/package.js'

interface Row {
  id: string
  code?: keyof typeof catalog
  covers: string[]
  at: string[]
  recovery: string
  full?: boolean
}
interface Group {
  name: string
  title: string
  rows: Row[]
}

const bench = (name: string) => import(pathToFileURL(join(root, 'bench/faults', name)).href)
const groups: Group[] = await (await bench('groups.mjs')).loadGroups()
const rows = groups.flatMap((group) => group.rows)

t.test(
  'every fault has a name of its own, a code of the catalogue or none, and a place where it is seen',
  async (t) => {
    t.equal(new Set(rows.map(({ id }) => id)).size, rows.length)
    t.same(
      rows.filter(({ code }) => code !== undefined && !(code in catalog)),
      []
    )
    t.ok(rows.every(({ at, recovery }) => at.length > 0 && recovery.length > 0))
    t.ok(rows.filter(({ full }) => !full).length >= 60, 'enough of them without --full')
  }
)

t.test('every condition of the sources is covered, or has a reason why not', async (t) => {
  const { gaps } = await bench('seeds.mjs')
  t.same(gaps(groups), { missing: [], unknown: [] })
})

t.test('docs/faults.md has each of them, as it was seen', async (t) => {
  const text = readFileSync(join(root, 'docs/faults.md'), 'utf8')
  const documented = [...text.matchAll(/^\| ([a-z0-9-]+) \|/gm)].map(([, id]) => id)
  const expected = rows.map(({ id }) => id)
  t.same(
    documented.filter((id) => expected.includes(id!)),
    expected,
    'node scripts/docs-faults.mjs'
  )
  t.notMatch(text, /not as stated|not observed/)
})

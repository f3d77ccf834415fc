import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import t from 'tap'
import type { EventEntry } from '../../lib/telemetry/event-catalog.js'
import { eventCatalog } from '../../lib/telemetry/event-catalog.js'

t.test('docs/telemetry.md is what the events and metrics say', async (t) => {
  const { status, stderr } = spawnSync(process.execPath, ['scripts/docs-telemetry.mjs', '--check'], {
    encoding: 'utf8'
  })
  t.equal(status, 0, stderr)
  const text = readFileSync('docs/telemetry.md', 'utf8')
  for (const [name, entry] of Object.entries(eventCatalog) as [string, EventEntry][]) {
    t.match(name, /^[a-z]+(_[a-z]+)+$/)
    t.ok(text.includes(`\`${name}\``) && entry.meaning.endsWith('.'), name)
  }
})

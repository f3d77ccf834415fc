import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import t from 'tap'
import { loadRuntimeConfig } from 'tiered-moe'

const page = readFileSync('docs/configuration.md', 'utf8')

t.test('docs/configuration.md is what the schema says', async (t) => {
  const { status, stderr } = spawnSync(process.execPath, ['scripts/docs-configuration.mjs', '--check'], {
    encoding: 'utf8'
  })
  t.equal(status, 0, stderr)
  const rows = [...page.matchAll(/^\| `([a-z_.[\]]+)` \| (.*) \| (.*) \|$/gm)]
  const sections = [...page.matchAll(/^## (\w+):/gm)].map(([, name]) => name!)
  t.ok(rows.length > 60, 'every setting has a row')
  for (const [, path, allowed, what] of rows) {
    t.ok(allowed, `${path} says what is allowed`)
    t.ok(what || /\.(breaker|starvation|audit|staging)\./.test(path!), `${path} says what it is`)
    t.ok(sections.includes(/^\w+/.exec(path!)![0]), `${path} is in a section`)
  }
})

t.test('its example is a configuration', async (t) => {
  const [, text] = /```yaml\n([\s\S]*?)```/.exec(page)!
  const { config, environments } = await loadRuntimeConfig({ text: text!, env: {}, environment: 'development' })
  t.match(config, { engine: { threads: 2, memory: '16GiB' }, models: [{ id: 'chat', tierSet: 'deep' }] })
  t.same(environments, ['development'])
})

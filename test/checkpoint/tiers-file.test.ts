/** Files of tiers that ask for more than there can be: refused at once, whatever they would make of it. */
import t, { type Test } from 'tap'
import { parseTiers } from '../../lib/checkpoint/tiers-file.js'

const file = (experts: unknown, more = {}) =>
  JSON.stringify({ tiers: [{ name: 'a', placement: 'cold', experts, ...more }] })
const refused = (t: Test, text: string, details: Record<string, unknown>, name: string) =>
  t.throws(() => parseTiers(text, 'tiers.yaml'), { code: 'VALIDATION_ERROR', details }, name)

t.test('numbers and ranges', async (t) => {
  const [tier] = parseTiers(file([0, '2-4', 4095]), 'tiers.yaml')
  t.same(tier!.experts, { ids: [0, 2, 3, 4, 4095] })
  const allowed = "a list of numbers and ranges as '0-7'"
  for (const item of [4096, '0-4096', '4-3', '', '5', -1, 1.5, null, [], '0-99999']) {
    refused(t, file([item]), { path: 'tiers[0].experts[0]', allowed }, JSON.stringify(item))
  }
})

t.test('a short text cannot ask for any amount of memory', async (t) => {
  const often = new Array(3000).fill('0-4095')
  refused(t, file(often), { path: 'tiers[0].experts', allowed: 'at most 4096 experts, each once' }, 'ranges')
  refused(t, file({ '0-4095': ['0-4095'] }), { allowed: 'layers below 1024' }, 'layers')
  const [tier] = parseTiers(file({ '0-1023': ['0-4095'] }), 'tiers.yaml')
  const { layers } = tier!.experts as { layers: Map<number, number[]> }
  t.equal(new Set(layers.values()).size, 1, 'one list for all layers')
})

t.test('thousands of keys, and thousands of levels', async (t) => {
  const keys = Array.from({ length: 9000 }, (_, i) => `k${i}: 1`).join('\n')
  refused(t, `tiers:\n  - name: a\n${keys}\n`, { file: 'tiers.yaml' }, 'keys')
  refused(t, '['.repeat(50_000), { path: 'tiers.yaml', allowed: 'a YAML file' }, 'levels')
})

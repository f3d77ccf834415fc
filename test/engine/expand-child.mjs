// An engine that is killed while a tier is added (`during`), or when a request that uses it has begun (`after`).
import { createEngine } from 'tiered-moe'

const [journal, model, from, when] = process.argv.slice(2)
const die = () => process.kill(process.pid, 'SIGKILL')
const engine = await createEngine({
  threads: 2,
  journal: { path: journal, syncMs: 1 },
  onTransition: ({ next }) => when === 'during' && next === 'expanding' && die()
})
await engine.loadModel({ id: 'tiny', model, tierFolders: { rare: false } })
const request = { model: 'tiny', prompt: 'ROMEO:', seed: 11, maxTokens: 40, ignoreEos: true }
const core = engine.createGenerator({ ...request, requestId: 'core', tierSet: 'core' })
for (let i = 0; i < 5; i++) await core.next()
await engine.expand('tiny', { from })
const rare = engine.createGenerator({ ...request, requestId: 'rare', tierSet: 'max' })
for (let i = 0; i < 5; i++) await rare.next()
die()

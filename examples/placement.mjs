// Where experts are while a model serves: tiers that compete for memory, pins, a tier that is not active, and one that is added.
import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { convertModel, createEngine } from 'tiered-moe'

const folder = await mkdtemp(join(tmpdir(), 'placement-example-'))
const [whole, part] = [join(folder, 'whole'), join(folder, 'part')]
const tiers = [
  { name: 'core', placement: 'hot', experts: ['0-3'] },
  { name: 'usual', placement: 'warm', experts: ['4-11'] },
  { name: 'rare', placement: 'cold', experts: 'rest' }
]
await convertModel({ from: 'models/tiny-shakespeare-moe-q8_0.gguf', to: whole, tiers })
// A folder without the rare tier: its files may be on another disk, or not here yet.
await cp(whole, part, { recursive: true })
await rm(join(part, 'experts/rare'), { recursive: true })

const model = 'tiny'
const show = (engine, when) => {
  const { now, pinned, usedBytes, budgetBytes } = engine.placement(model)
  const counts = Object.entries(now).map(([place, { experts }]) => `${experts} ${place}`)
  console.log(`${when}: ${counts.join(', ')}; ${pinned} pinned; ${usedBytes} of ${budgetBytes} bytes`)
}
const engine = await createEngine({ threads: 2, maxBatchTokens: 32 })
const load = { id: model, model: part, tierFolders: { rare: false }, contextLength: 192 }
await engine.loadModel(load)
const { base, arena, experts } = engine.listModels()[0].memory
await engine.unloadModel(model)
await engine.loadModel({ ...load, memory: base + arena + 40 * experts.slot })

show(engine, 'loaded without the rare tier')
const running = engine.generate({ model, prompt: 'ROMEO:', maxTokens: 30 })
await engine.expand(model, { from: whole })
console.log('a text that was under way had', (await running).tierSet.join(' and '))
show(engine, 'the rare tier was added')
await engine.generate({ model, prompt: 'JULIET:', maxTokens: 30, tierSet: 'max' })
show(engine, 'and used')
await engine.activateTierSet(model, ['usual', 'rare'])
show(engine, 'core is not active')
await engine.activateTierSet(model, 'max')
await engine.pinExperts(model, [{ layer: 0, expert: 15 }])
const { tier, placement, now, residency, pinned } = engine.placement(model).expert(0, 15)
console.log(`expert 15 of layer 0: tier ${tier}, wanted ${placement}, is ${now} (${residency}, pinned: ${pinned})`)
await engine.dispose()
await rm(folder, { recursive: true })

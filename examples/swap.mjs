// Gives a model other experts while it serves: a text that has begun ends as it would have, the next one sees the change.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { convertModel, createEngine, verifyCheckpoint } from 'tiered-moe'

const folder = await mkdtemp(join(tmpdir(), 'swap-example-'))
const checkpoint = join(folder, 'checkpoint')
await convertModel({ from: 'models/tiny-shakespeare-moe-q8_0.gguf', to: checkpoint })

const model = 'tiny'
const request = { model, prompt: 'ROMEO:', temperature: 0, maxTokens: 40 }
const engine = await createEngine({
  onEvent: ({ event, message }) => event.startsWith('expert') && console.log(`  [${message}]`)
})
await engine.loadModel({ model: checkpoint, id: model })
const before = await engine.generate(request)
console.log('before:    ', JSON.stringify(before.text))

// A request that is under way when the experts change.
let text = ''
for await (const item of engine.createGenerator(request)) {
  if (text === '') {
    await engine.swapExperts(model, [
      { action: 'merge', layer: 0, experts: [1, 2] },
      { action: 'reinitialise', layer: 1, expert: 0, seed: 7 }
    ])
  }
  text += item.text
}
console.log('under way: ', text === before.text ? 'the same text' : 'DIFFERENT')
const after = await engine.generate(request)
console.log('after:     ', JSON.stringify(after.text))

await engine.persistExperts(model)
await engine.dispose()
const { damage } = await verifyCheckpoint(checkpoint)
console.log(`the checkpoint has the changed experts now, and ${damage.length === 0 ? 'verifies' : 'DIFFERENT bytes'}`)
await rm(folder, { recursive: true })

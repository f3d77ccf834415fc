// Streams text of the embedded model, or of a GGUF file: node examples/stream.mjs [model.gguf]
import { createEngine } from 'tiered-moe'

const engine = await createEngine()
const { id, descriptor } = await engine.loadModel(process.argv[2] ? { model: process.argv[2] } : {})
console.log(`${id}: ${descriptor.experts} experts per layer, ${descriptor.expertsUsed} used per token\n`)

const request = { model: id, prompt: 'ROMEO:\n', maxTokens: 80, temperature: 0.8, seed: 4, stop: '\n\n\n' }
for await (const item of engine.createGenerator(request, { timeoutMs: 60_000 })) {
  process.stdout.write(item.text)
  if (item.finishReason) console.log(`\n\n${item.finishReason} after ${item.usage.completionTokens} tokens`)
}
await engine.dispose()

// Several texts at once: their steps are computed together, and the bits of each do not depend on the others.
import { createEngine } from 'tiered-moe'

const engine = await createEngine()
const { id } = await engine.loadModel()
const requests = ['ROMEO:', 'JULIET:', 'KING HENRY:', 'First Citizen:'].map((prompt, seed) => ({
  model: id,
  prompt,
  maxTokens: 40,
  seed,
  ignoreEos: true
}))

const together = await Promise.all(requests.map((request) => engine.generate(request)))
for (const [i, request] of requests.entries()) {
  const alone = await engine.generate(request)
  const same = alone.text === together[i].text ? 'same text as alone' : 'DIFFERENT from alone'
  console.log(`--- ${same}\n${request.prompt}${together[i].text}\n`)
  if (alone.text !== together[i].text) process.exitCode = 1
}
await engine.dispose()

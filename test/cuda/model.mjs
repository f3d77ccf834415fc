// A model on `backend: 'cuda'` against the same model on the CPU: equal bits of logits, equal tokens and routes, with every expert on the
// device, with fewer, and two requests at once (engine.test.ts has masks and replays). TIERED_MOE_CUDA_ADDON names the addon: the emulated one where no GPU is.
//   node test/cuda/model.mjs [--tokens N]
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createEngine } from 'tiered-moe'
import { openModel } from '../../bench/runtime.mjs'
import { cudaNative } from '../../dist/esm/native.js'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const shared = join(process.env.TIERED_MOE_SHARED ?? join(root, '..', 'shared'), 'models')
const given = process.argv.indexOf('--tokens')
const count = given > 0 ? Number(process.argv[given + 1]) : 96
const embedded = join(root, 'models', 'tiny-shakespeare-moe-q8_0.gguf')
const path = join(shared, 'reference.json')
const reference = existsSync(path) ? JSON.parse(readFileSync(path, 'utf8')) : undefined
const prompt = reference?.prompt ?? 'ROMEO:'

const cpu = await createEngine()
const cuda = await createEngine({ backend: 'cuda' })
let passed = 0
function check(name, got, wanted) {
  assert.deepEqual(got, wanted, name)
  passed++
  console.log(`ok ${name}`)
}

async function compare(file, options = {}) {
  const [own, other] = [
    await cuda.loadModel({ model: file, ...options }),
    await cpu.loadModel({ model: file, ...options })
  ]
  const name = `${file.split('/').at(-1)} ${JSON.stringify(options)}`
  const request = { prompt, maxTokens: count, temperature: 0, ignoreEos: true }
  const { tokens } = await cuda.tokenize({ model: own.id, text: prompt })
  const logits = await cuda.forward({ model: own.id, tokens })
  check(
    `${name}: the bits of the logits`,
    Buffer.from(logits.buffer),
    Buffer.from((await cpu.forward({ model: other.id, tokens })).buffer)
  )
  const result = await cuda.generate({ model: own.id, ...request })
  if (reference)
    check(`${name}: ${count} greedy tokens of the reference`, result.tokens, reference.greedy.slice(0, count))
  check(
    `${name}: ${count} greedy tokens of the CPU`,
    result.tokens,
    (await cpu.generate({ model: other.id, ...request })).tokens
  )
  return { own: own.id, other: other.id }
}

/** Fewer slots than experts, on the device and in host memory: every token's logits are those of the CPU. */
async function tiered(file) {
  const prompts = [
    [82, 79, 77, 69, 79, 58],
    [74, 85]
  ]
  const logitsOf = async (options) => {
    const open = await openModel(file, { maxBatchTokens: 16, threads: 2, ...options })
    const sequences = prompts.map(() => open.model.createSequence({ kvType: 'f16', maxTokens: 64 }))
    const out = []
    for (let step = 0; step < 6; step++) {
      const items = sequences.map((sequence, i) => ({
        sequence,
        tokens: Int32Array.from(step === 0 ? prompts[i] : [65 + step + i]),
        logits: 'last',
        logitsOut: new Float32Array(open.plan.vocab)
      }))
      await open.model.step(items, open.cancel)
      out.push(...items.map(({ logitsOut }) => Buffer.from(logitsOut.buffer)))
    }
    for (const sequence of sequences) sequence.dispose()
    await open.dispose()
    return out
  }
  const wanted = await logitsOf({})
  for (const [percent, gpuPercent] of [
    [50, 25],
    [100, 10],
    [25, 100]
  ]) {
    check(
      `experts: ${percent} % in host memory, ${gpuPercent} % on the device`,
      await logitsOf({ addon: cudaNative(), percent, gpuPercent }),
      wanted
    )
  }
}

const { own, other } = await compare(embedded)
const sampled = { prompt, maxTokens: 12, temperature: 0.8, topP: 0.9, seed: 5, ignoreEos: true, captureRouting: true }
const [ours, theirs] = [
  await cuda.generate({ model: own, ...sampled }),
  await cpu.generate({ model: other, ...sampled })
]
check('sampled tokens', ours.tokens, theirs.tokens)
check('captured routes', ours.routing, theirs.routing)
const both = await Promise.all(
  ['ROMEO:', 'JULIET: O'].map((text) =>
    cuda.generate({ model: own, prompt: text, maxTokens: 8, temperature: 0, ignoreEos: true })
  )
)
const alone = await Promise.all(
  ['ROMEO:', 'JULIET: O'].map((text) =>
    cpu.generate({ model: other, prompt: text, maxTokens: 8, temperature: 0, ignoreEos: true })
  )
)
check(
  'two requests at once',
  both.map((each) => each.tokens),
  alone.map((each) => each.tokens)
)
await cuda.unloadModel(own)
await cpu.unloadModel(other)
for (const type of ['f16', 'f32']) {
  const file = join(shared, `tiny-shakespeare-moe-${type}.gguf`)
  if (existsSync(file)) await compare(file, type === 'f32' ? { kvType: 'f32' } : {})
}
await tiered(embedded)
await cuda.dispose()
await cpu.dispose()
console.log(`${passed} comparisons passed`)

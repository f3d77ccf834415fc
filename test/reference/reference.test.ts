// The trained model against its trainer's own forward pass (../shared/models/reference.json).
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { createEngine } from 'tiered-moe'

const root = fileURLToPath(new URL('../..', import.meta.url))
const models = join(process.env.TIERED_MOE_SHARED ?? join(root, '..', 'shared'), 'models')
const referencePath = join(models, 'reference.json')
const skip = existsSync(referencePath)
  ? false
  : `${referencePath} is not there (TIERED_MOE_SHARED names the shared folder)`
const fileOf = (type: string) => join(models, `tiny-shakespeare-moe-${type}.gguf`)

interface Reference {
  prompt: string
  ids: number[]
  greedy: number[]
  text: string
  logits_last: number[]
}

/** Index of the largest, the first of equals. */
const argmax = (row: Float32Array) => row.reduce((best, x, i) => (x > (row[best] as number) ? i : best), 0)

t.test('reference', { skip }, async (t) => {
  const reference = JSON.parse(readFileSync(referencePath, 'utf8')) as Reference
  const { prompt, ids, greedy, text, logits_last: expected } = reference
  const engine = await createEngine({ threads: 2 })
  t.teardown(() => engine.dispose())

  // Logits of f16 weights differ by their own rounding; of q8_0 ones by that of activations too, so only tokens are compared.
  const files = [
    { type: 'f32', kvType: 'f16', tolerance: 1e-3 },
    { type: 'f32', kvType: 'f32', tolerance: 1e-4 },
    { type: 'f16', kvType: 'f16', tolerance: 5e-3 },
    { type: 'q8_0', kvType: 'f16', tolerance: undefined }
  ] as const
  for (const { type, kvType, tolerance } of files) {
    await t.test(`${type}, KV ${kvType}`, async (t) => {
      const { id } = await engine.loadModel({ model: fileOf(type), kvType })
      t.same((await engine.tokenize({ model: id, text: prompt })).tokens, ids, 'token ids of the prompt')
      const result = await engine.generate({
        model: id,
        prompt,
        maxTokens: greedy.length,
        temperature: 0,
        ignoreEos: true
      })
      t.same(result.tokens, greedy, 'all greedy tokens')
      t.equal(prompt + result.text, text, 'the text')
      const logits = await engine.forward({ model: id, tokens: ids })
      const apart = logits.reduce((most, x, i) => Math.max(most, Math.abs(x - (expected[i] as number))), 0)
      t.comment(`last-position logits are ${apart.toExponential(2)} apart`)
      if (tolerance !== undefined) t.ok(apart <= tolerance, `within ${tolerance}`)
      await engine.unloadModel(id)
    })
  }

  await t.test('the folder of safetensors files', async (t) => {
    for (const options of [{}, { memory: '24MiB', contextLength: 128 }, { quantize: 'Q8_0' as const }]) {
      const { id, descriptor } = await engine.loadModel({ model: join(models, 'hf'), ...options })
      t.match(descriptor, { architecture: 'olmoe', weightType: options.quantize ?? 'F16', vocab: 1024 })
      t.same((await engine.tokenize({ model: id, text: prompt })).tokens, ids, 'token ids of the prompt')
      const result = await engine.generate({ model: id, prompt, maxTokens: 96, temperature: 0, ignoreEos: true })
      t.same(result.tokens, greedy, `all greedy tokens: ${JSON.stringify(options)}`)
      t.equal(prompt + result.text, text, 'the text')
      await engine.unloadModel(id)
    }
  })

  await t.test('q4_0 made by quantize: teacher-forced agreement', async (t) => {
    const made = join(t.testdir(), 'q4_0.gguf')
    const command = join(root, 'dist', 'esm', 'cli', 'main.js')
    execFileSync(process.execPath, [command, 'quantize', fileOf('f32'), made, '--type', 'q4_0'], { stdio: 'pipe' })
    const { id } = await engine.loadModel({ model: made })
    const logits = await engine.forward({ model: id, tokens: [...ids, ...greedy.slice(0, -1)], logits: 'all' })
    const vocab = expected.length
    const agreeing = greedy.filter((token, i) => {
      const row = ids.length - 1 + i
      return argmax(logits.subarray(row * vocab, (row + 1) * vocab)) === token
    })
    t.comment(`${agreeing.length} of ${greedy.length} tokens agree`)
    t.ok(agreeing.length >= 0.9 * greedy.length, 'at least 90 %')
    await engine.unloadModel(id)
  })
})

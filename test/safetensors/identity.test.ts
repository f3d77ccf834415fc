/** A folder is known again by all of its files; commands take one as they take a file. */
import { execFileSync } from 'node:child_process'
import { readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { convertModel, createEngine } from 'tiered-moe'
import { flip } from '../checkpoint/checkpoints.js'
import { command, notBuilt } from '../cli/command.js'
import { items } from '../engine/items.js'
import { writeTwins } from '../fixtures/safetensors.js'

const options = {
  vocab: 270,
  layers: 1,
  experts: 4,
  type: 'F16',
  embedding: 32,
  heads: 2,
  headDim: 16,
  feedForward: 32
} as const
const root = t.testdir({})
const { folder, gguf } = writeTwins(join(root, 'model'), options, 2)
const shard = join(folder, 'model-00002-of-00002.safetensors')
const last = statSync(shard).size - 1

t.test('requests go on while every file is what it was', async (t) => {
  const journal = join(root, 'journal')
  const open = () => createEngine({ threads: 1, journal })
  const request = { model: 'model', promptTokens: [1, 2, 3], seed: 5, maxTokens: 12, ignoreEos: true, requestId: 'a' }
  const engine = await open()
  await engine.loadModel({ model: folder, quantize: 'Q8_0' })
  const expected = await items(engine.createGenerator({ ...request, requestId: 'b' }))
  await items(engine.createGenerator(request), 4)
  await engine.dispose()
  const resumed = async () => {
    const next = await open()
    try {
      return await items(await next.resumeGenerator({ requestId: 'a' }))
    } finally {
      await next.dispose()
    }
  }
  const text = (list: Awaited<ReturnType<typeof resumed>>) => list.map((item) => item.text)
  for (const [what, change] of [
    ['a byte of the last shard', () => flip(shard, last)],
    ['config.json', () => changeText('config.json', /"rope_theta":10000/, '"rope_theta":10001')],
    ['tokenizer.json', () => changeText('tokenizer.json', /"version":"1.0"/, '"version":"1.1"')],
    ['another file', () => writeFileSync(join(folder, 'generation_config.json'), '{}')]
  ] as const) {
    const undo = change()
    await t.rejects(resumed(), { code: 'MODEL_CHANGED', details: { path: folder } }, what)
    if (undo) undo()
    else if (what.startsWith('a byte')) flip(shard, last)
    else execFileSync('rm', [join(folder, 'generation_config.json')])
  }
  t.same(text(await resumed()), text(expected), 'as it was, it goes on')
})

/** Returns what puts the text back. */
function changeText(name: string, from: RegExp, to: string): () => void {
  const path = join(folder, name)
  const text = readFileSync(path, 'utf8')
  writeFileSync(path, text.replace(from, to))
  return () => writeFileSync(path, text)
}

t.test('quantize is of safetensors files only', async (t) => {
  const engine = await createEngine({ threads: 1 })
  const checkpoint = join(root, 'checkpoint')
  await convertModel({ from: gguf, to: checkpoint })
  for (const model of [gguf, checkpoint]) {
    const refused = { code: 'VALIDATION_ERROR', details: { path: 'quantize' } }
    await t.rejects(engine.loadModel({ model, quantize: 'Q8_0' }), refused)
    await t.rejects(convertModel({ from: model, to: join(root, 'other'), quantize: 'Q4_0' }), refused)
  }
  // @ts-expect-error: another type
  await t.rejects(engine.loadModel({ model: folder, quantize: 'Q5_0' }), { code: 'VALIDATION_ERROR' })
  await engine.dispose()
})

t.test('a source that changes while it is converted', async (t) => {
  // Not the newest of all files: an older file took the place of one.
  const newest = new Date(Date.now() + 60_000)
  utimesSync(join(folder, 'config.json'), newest, newest)
  let changed = false
  const converting = convertModel(
    { from: folder, to: join(root, 'changed') },
    {
      onProgress() {
        if (!changed) flip(shard, last)
        changed = true
      }
    }
  )
  await t.rejects(converting, { code: 'FILE_READ_FAILED', details: { path: folder } })
  flip(shard, last)
})

t.test('commands', { skip: notBuilt }, async (t) => {
  const [made, quantised] = [join(root, 'made.gguf'), join(root, 'quantised.gguf')]
  const runs = await Promise.all([
    command(['inspect', folder, '--json']),
    command(['quantize', folder, made, '--type', 'q4_0', '--json']),
    command(['quantize', gguf, quantised, '--type', 'q4_0', '--json']),
    command(['quantize', folder, shard])
  ])
  t.match(runs.pop(), { code: 2, stderr: /is an input file.*VALIDATION_ERROR/s }, 'not over a file of the folder')
  t.same(
    runs.map(({ code }) => code),
    [0, 0, 0],
    runs.map(({ stderr }) => stderr).join('')
  )
  const { model, tensors } = JSON.parse(runs[0]!.stdout)
  t.match(model, { architecture: 'olmoe', layers: 1, experts: 4, weightType: 'F16' })
  t.equal(tensors.find(({ name }: { name: string }) => name === 'blk.0.ffn_up_exps.weight').shape.join(), '32,32,4')
  const engine = await createEngine({ threads: 1 })
  const logits = []
  for (const path of [made, quantised]) {
    const { id } = await engine.loadModel({ model: path })
    logits.push(await engine.forward({ model: id, tokens: [1, 2, 3] }))
  }
  t.same(logits[0], logits[1], 'the weights of the quantised twin')
  await engine.dispose()
})

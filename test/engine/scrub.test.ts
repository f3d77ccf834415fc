/** The scrub of experts in memory finds a bit that was flipped there: written by the kernel's own way into a process' memory. */
import { closeSync, openSync, readFileSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { convertModel, createEngine } from 'tiered-moe'
import { writeMoeModel } from '../fixtures/moe-model.js'

/** Flips a bit wherever the process has these bytes in memory that it may write, but for the copy in `bytes` itself; how often that was. */
function flipInMemory(bytes: Buffer): number {
  const memory = openSync('/proc/self/mem', 'r+')
  let flipped = 0
  try {
    for (const line of readFileSync('/proc/self/maps', 'utf8').split('\n')) {
      const [, from, to] = /^([0-9a-f]+)-([0-9a-f]+) rw-p 0+ 00:00 0/.exec(line) ?? []
      if (from === undefined) continue
      const [begin, size] = [Number.parseInt(from, 16), Number.parseInt(to!, 16) - Number.parseInt(from, 16)]
      const region = Buffer.alloc(size)
      const there = region.subarray(0, readSync(memory, region, 0, size, begin))
      // Blobs in memory begin at multiples of a page; what Node has read of the file lies elsewhere.
      for (let at = 0; at + bytes.length <= there.length; at += 4096) {
        if (!there.subarray(at, at + bytes.length).equals(bytes)) continue
        writeSync(memory, Buffer.of(bytes[0]! ^ 1), 0, 1, begin + at)
        flipped++
      }
    }
  } finally {
    closeSync(memory)
  }
  return flipped
}

t.test('memory corruption', { skip: process.platform !== 'linux' && 'needs /proc/self/mem' }, async (t) => {
  const folder = t.testdir()
  const [from, to] = [join(folder, 'model.gguf'), join(folder, 'checkpoint')]
  writeMoeModel(from, { type: 'F32', layers: 1, experts: 4 })
  await convertModel({ from, to })
  await using engine = await createEngine({ threads: 1, maxBatchTokens: 16 })
  const { id } = await engine.loadModel({ model: to, contextLength: 128, memory: '64MiB', scrub: 64, prefetch: 'off' })
  const logits = async () => Buffer.from((await engine.forward({ model: id, tokens: [1, 2, 3, 4] })).buffer)
  const before = await logits()
  const { layers, shards } = JSON.parse(readFileSync(join(to, 'manifest.json'), 'utf8'))
  const [blob] = layers[0].experts
  const bytes = readFileSync(join(to, shards[blob.shard].path)).subarray(blob.offset, blob.offset + 256)
  const promptTokens = Array.from({ length: 100 }, (_, i) => i)
  await engine.generate({ model: id, promptTokens, maxTokens: 2 })
  t.ok(engine.modelStats(id).prefixCache!.bytes > 0)
  t.ok(flipInMemory(bytes) > 0, 'it was found in memory')
  await t.rejects(logits(), { code: 'RUNTIME_MEMORY_CORRUPTION', details: { layer: 0, expert: blob.expert } })
  t.equal(engine.modelStats(id).prefixCache!.bytes, 0, 'what may have been computed with it is not kept')
  t.ok((await logits()).equals(before), 'it is read again, and the logits are those of before')
})

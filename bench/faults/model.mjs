// Model files: what is wrong with one is said by a code of its own, and the model that is in service does not notice.
import { cpSync, readFileSync, renameSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { convertModel, createEngine, verifyCheckpoint } from '../../dist/esm/index.js'
import { edit, flip, manifestOf } from '../../test/checkpoint/checkpoints.ts'
import { writeMoeModel } from '../../test/fixtures/moe-model.ts'
import { modelFolder, writeFolder } from '../../test/fixtures/safetensors.ts'
import { startServer, streamed } from './server.mjs'
import { embedded, id, runArguments, serving, stillServes } from './serving.mjs'

/** A row of a file that cannot be loaded: `write(folder)` makes it and gives its path. */
const badFile = (row, write, details) => ({
  at: ['library', 'cli', 'http'],
  recovery: 'nothing of it is held; the models in service, of an engine and of a server, give their text',
  ...row,
  async run(t, shared) {
    const path = await write(t.folder, shared)
    await t.caught(shared.engine.loadModel({ model: path, id: 'other' }), details)
    await t.cli(['run', path, ...runArguments])
    await shared.server.watched(t, async () => {
      t.sawHttp(await shared.server.post('/admin/models/swap', { id, request: { model: path } }))
      t.check("the server's model gives its text", (await shared.server.text()) === shared.text)
    })
    t.check('the model in service gives its text', await stillServes(shared))
    t.check('no other model is there', shared.engine.listModels().length === 1)
  }
})

/** Rows of a small model with one thing changed. */
const badModel = (row, options, details) =>
  badFile(
    row,
    (folder) => writeMoeModel(join(folder, 'model.gguf'), { vocab: 260, layers: 2, experts: 4, ...options }),
    details
  )

const smallFolder = { vocab: 260, layers: 1, experts: 4, type: 'F16' }
const onTensor = (wanted, change) => (tensor) => (tensor.name === wanted ? change(tensor) : tensor)
const s008Corrupted = 'S008 corrupted checkpoint'
const s008Version = 'S008 version mismatch'

export default {
  name: 'model',
  title: 'Model files',
  async begin(folder) {
    const sound = join(folder, 'sound')
    await convertModel({ from: embedded, to: sound })
    const server = await startServer(folder, { models: [{ id, context_length: 256 }] })
    return { ...(await serving()), sound, server }
  },
  async end(shared) {
    await shared?.engine.dispose()
    await shared?.server.stop()
  },
  rows: [
    badFile(
      {
        id: 'absent',
        covers: ['edge 2', 'pattern 5'],
        inject: 'there is no file at the path',
        code: 'MODEL_NOT_FOUND'
      },
      (folder) => join(folder, 'nothing.gguf')
    ),
    badFile(
      {
        id: 'cut-off',
        covers: ['edge 2', s008Corrupted],
        inject: 'the file ends in the middle of its weights',
        code: 'MODEL_FILE_INVALID'
      },
      (folder) => {
        const path = join(folder, 'short.gguf')
        cpSync(embedded, path)
        truncateSync(path, statSync(path).size >> 1)
        return path
      }
    ),
    badFile(
      {
        id: 'no-model',
        full: true,
        covers: ['edge 2', s008Corrupted],
        inject: 'random bytes where the head of the file was',
        code: 'MODEL_FILE_INVALID'
      },
      (folder) => {
        const path = join(folder, 'noise.gguf')
        const bytes = readFileSync(embedded)
        writeFileSync(path, bytes.subarray(4096))
        return path
      }
    ),
    badFile(
      {
        id: 'shard-cut-off',
        full: true,
        covers: ['edge 2', s008Corrupted],
        inject: 'a shard of a safetensors folder ends in the middle of its weights',
        code: 'MODEL_FILE_INVALID'
      },
      (folder) => {
        const path = writeFolder(join(folder, 'shards'), modelFolder(smallFolder), 2)
        const shard = join(path, 'model-00002-of-00002.safetensors')
        truncateSync(shard, statSync(shard).size >> 1)
        return path
      }
    ),
    badFile(
      {
        id: 'index-leads-out',
        full: true,
        covers: ['edge 2'],
        inject: 'the index of a safetensors folder names a file outside of it',
        code: 'MODEL_FILE_INVALID'
      },
      (folder) => {
        const path = writeFolder(join(folder, 'index'), modelFolder(smallFolder), 2)
        const index = join(path, 'model.safetensors.index.json')
        writeFileSync(index, readFileSync(index, 'utf8').replaceAll('"model-00002', '"../model-00002'))
        return path
      }
    ),
    badFile(
      {
        id: 'newer-version',
        covers: ['edge 6', s008Version],
        inject: 'a file of version 9 of its format',
        code: 'MODEL_VERSION_MISMATCH'
      },
      (folder) => {
        const path = join(folder, 'newer.gguf')
        const bytes = readFileSync(embedded)
        bytes.writeUInt32LE(9, 4)
        writeFileSync(path, bytes)
        return path
      },
      { actual: 9 }
    ),
    badFile(
      {
        id: 'manifest-version',
        covers: ['edge 6', s008Version],
        inject: 'a checkpoint whose manifest is of version 9',
        code: 'MODEL_VERSION_MISMATCH'
      },
      async (folder, { sound }) => {
        const path = join(folder, 'newer')
        cpSync(sound, path, { recursive: true })
        edit(path, (manifest) => {
          manifest.version = '9.0'
        })
        return path
      }
    ),
    badModel(
      {
        id: 'wrong-type',
        covers: ['edge 2', 'S008 fatal: abort'],
        inject: 'a tensor of a type that there is no kernel for',
        code: 'TENSOR_TYPE_UNSUPPORTED'
      },
      {
        editTensor: onTensor('blk.0.attn_norm.weight', (tensor) => ({ ...tensor, typeId: 8, data: new Uint8Array(68) }))
      }
    ),
    badModel(
      {
        id: 'missing-tensor',
        covers: ['edge 2', 'S008 fatal: abort'],
        inject: 'the file lacks a tensor of its architecture',
        code: 'TENSOR_MISSING'
      },
      { editTensor: onTensor('blk.1.attn_k.weight', () => undefined) }
    ),
    badModel(
      {
        id: 'wrong-shape',
        covers: ['edge 2', 'S008 fatal: abort'],
        inject: 'a tensor of another shape than the metadata says',
        code: 'TENSOR_SHAPE_MISMATCH'
      },
      {
        editTensor: onTensor('blk.0.attn_q.weight', (tensor) => ({
          ...tensor,
          shape: [tensor.shape[1] * 2, tensor.shape[0] / 2]
        }))
      }
    ),
    badModel(
      {
        id: 'other-architecture',
        full: true,
        covers: ['edge 6'],
        inject: 'a file of an architecture that is not supported',
        code: 'ARCHITECTURE_UNSUPPORTED'
      },
      { metadata: { 'general.architecture': 'mamba' } }
    ),
    badModel(
      {
        id: 'bad-metadata',
        full: true,
        covers: ['edge 2'],
        inject: 'more experts used per token than there are',
        code: 'METADATA_INVALID'
      },
      { metadata: { 'olmoe.expert_used_count': 5 } }
    ),
    badFile(
      {
        id: 'flipped-manifest',
        covers: ['edge 2', s008Corrupted],
        inject: "one bit of a checkpoint's manifest",
        code: 'MODEL_CORRUPTED'
      },
      (folder, { sound }) => {
        const path = join(folder, 'flipped')
        cpSync(sound, path, { recursive: true })
        flip(join(path, 'manifest.json'), 400)
        return path
      }
    ),
    badFile(
      {
        id: 'cut-off-shard',
        covers: ['edge 2', s008Corrupted],
        inject: 'a file of expert blobs ends too early',
        code: 'CHECKPOINT_INVALID'
      },
      (folder, { sound }) => {
        const path = join(folder, 'cut')
        cpSync(sound, path, { recursive: true })
        truncateSync(join(path, 'experts/all/layer-001.bin'), 8192)
        return path
      }
    ),
    {
      id: 'checkpoint-sha',
      covers: ['edge 2', s008Corrupted],
      inject: "one bit of an expert's weights, against the SHA-256 of the manifest",
      code: 'MODEL_CORRUPTED',
      at: ['library', 'cli'],
      recovery: '`verify` names file, layer and expert; with the bit put back the checkpoint is sound',
      async run(t, { engine, sound }) {
        const path = join(t.folder, 'flipped')
        cpSync(sound, path, { recursive: true })
        const blobs = join(path, 'experts/all/layer-001.bin')
        flip(blobs, 5000)
        await t.caught(engine.loadModel({ model: path, id: 'other', verifyOnLoad: true }))
        await t.cli(['verify', path])
        const { damage } = await verifyCheckpoint(path)
        t.check('the expert is named', damage.length > 0 && damage[0].layer === 1 && damage[0].expert !== undefined)
        flip(blobs, 5000)
        t.check('it is sound again', (await verifyCheckpoint(path)).damage.length === 0)
      }
    },
    {
      id: 'expert-damaged-in-service',
      covers: ['edge 2', s008Corrupted, 'S008 recoverable: cache miss'],
      inject: 'a bit of one expert changes on disk while the model serves under a budget',
      code: 'EXPERT_CORRUPTED',
      at: ['library'],
      recovery: 'only requests that need it fail; with the bit put back the same request has its text',
      async run(t, { sound }) {
        const path = join(t.folder, 'damaged')
        cpSync(sound, path, { recursive: true })
        const engine = await createEngine({ threads: 1, maxBatchTokens: 32 })
        await engine.loadModel({ model: path, id: 'whole', contextLength: 64 })
        const { base, arena, keyValues, experts } = engine.listModels()[0].memory
        await engine.unloadModel('whole')
        await engine.loadModel({
          model: path,
          id,
          contextLength: 64,
          memory: base + arena + keyValues + 12 * experts.slot,
          prefetch: 'off'
        })
        const tokens = Int32Array.from({ length: 8 }, (_, i) => (i * 37 + 11) % 200)
        const { routing } = await engine.forward({ model: id, tokens, captureRouting: true })
        const routed = (first) => ({ ...routing, ids: routing.ids.map((_, at) => first + (at % routing.k)) })
        const sums = async (first) =>
          Buffer.from((await engine.forward({ model: id, tokens, replayRouting: routed(first) })).buffer).toString(
            'hex'
          )
        const [low, high] = [await sums(0), await sums(8)]
        const entry = manifestOf(path).layers[1].experts.find(({ expert }) => expert === 9)
        const blobs = join(path, manifestOf(path).shards[entry.shard].path)
        flip(blobs, entry.offset + 1000)
        await sums(0)
        await t.caught(engine.forward({ model: id, tokens, replayRouting: routed(8) }), { layer: 1, expert: 9 })
        t.check('who does not need it has what it had', (await sums(0)) === low)
        flip(blobs, entry.offset + 1000)
        t.check('once mended it is read again', (await sums(8)) === high)
        await engine.dispose()
      }
    },
    {
      id: 'swap-fits',
      covers: ['edge 12'],
      inject: 'another model is put under the id while a stream runs',
      at: ['http'],
      recovery:
        'the stream has the whole text of the model that it began with; later requests are answered by the other one',
      async run(t, { server, sound, text }) {
        await server.watched(t, async () => {
          const stream = server.complete({ stream: true, max_tokens: 24 })
          const swapped = await server.post('/admin/models/swap', {
            id,
            request: { model: sound, context_length: 256 }
          })
          t.sawHttp(swapped)
          const { text: events } = await stream
          t.check('the stream has its text', streamed(events) === text)
          t.check('the other model answers', (await server.text()) === text)
          await server.post('/admin/models/swap', { id, request: { model: id, context_length: 256 } })
        })
      }
    },
    {
      id: 'swap-does-not-fit',
      covers: ['edge 12', 'edge 10', 'S008 insufficient memory'],
      inject: 'a model is to be put under the id for which there is no memory',
      code: 'RESOURCE_BUDGET_TOO_SMALL',
      at: ['http'],
      recovery: 'refused with the bytes; the model that was there serves on',
      async run(t, { server, sound, text }) {
        await server.watched(t, async () => {
          const answer = await server.post('/admin/models/swap', { id, request: { model: sound, memory: '100KiB' } })
          t.sawHttp(answer)
          t.check('the bytes', answer.body?.error?.details.resource_info?.required > 100 * 1024)
          t.check('it serves on', (await server.text()) === text)
        })
      }
    },
    {
      id: 'changed-under-journal',
      covers: ['edge 6', 'S008 invariant violated'],
      inject: 'the model file is another one when a journaled request is to go on',
      code: 'MODEL_CHANGED',
      at: ['library'],
      recovery: 'with the first file put back the request goes on to the text it would have had',
      async run(t) {
        const [model, journal] = [join(t.folder, 'model.gguf'), join(t.folder, 'journal')]
        const other = writeMoeModel(join(t.folder, 'other.gguf'), { vocab: 260, layers: 2, experts: 4, seed: 2 })
        writeMoeModel(model, { vocab: 260, layers: 2, experts: 4 })
        const work = { model: 'own', promptTokens: [1, 2, 3], maxTokens: 12, temperature: 0, ignoreEos: true }
        const first = await createEngine({ threads: 1, journal })
        await first.loadModel({ model, id: 'own' })
        const { tokens } = await first.generate(work)
        const begun = first.createGenerator({ ...work, requestId: 'interrupted' })
        await begun.next()
        await first.dispose()
        renameSync(model, `${model}.first`)
        renameSync(other, model)
        const second = await createEngine({ threads: 1, journal })
        await t.caught(second.resumeGenerator({ requestId: 'interrupted' }))
        rmSync(model)
        renameSync(`${model}.first`, model)
        const rest = []
        for await (const { token } of await second.resumeGenerator({ requestId: 'interrupted' }))
          if (token !== undefined) rest.push(token)
        t.check('the same tokens', JSON.stringify(rest) === JSON.stringify(tokens))
        await second.dispose()
      }
    }
  ]
}

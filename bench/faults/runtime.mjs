// Routes and the runtime itself: what S008 calls routing errors and runtime exceptions.
import { spawnSync } from 'node:child_process'
import { copyFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { convertModel, createEngine } from '../../dist/esm/index.js'
import { manifestOf } from '../../test/checkpoint/checkpoints.ts'
import { writeMoeModel } from '../../test/fixtures/moe-model.ts'
import { root } from '../harness.mjs'
import { startServer } from './server.mjs'
import { embedded, id, runArguments, serving, stillServes } from './serving.mjs'

const hser = { tiers: { hot: [4], cold: [4] }, k: [1, 1, 1] }
const tokens = Int32Array.from({ length: 8 }, (_, i) => (i * 37 + 11) % 200)

/** The embedding of token 9 (the tab, in this vocabulary) has a weight that is not a number. */
const withNan = (path) =>
  writeMoeModel(path, {
    editTensor(tensor) {
      if (tensor.name !== 'token_embd.weight') return tensor
      const data = new Uint8Array(tensor.data)
      new DataView(data.buffer).setFloat32(9 * 64 * 4 + 8, Number.NaN, true)
      return { ...tensor, data }
    }
  })

export default {
  name: 'runtime',
  title: 'Routing and the runtime',
  async begin(folder) {
    const nan = withNan(join(folder, 'nan.gguf'))
    const tiers = join(folder, 'tiers.yaml')
    writeFileSync(
      tiers,
      'tiers:\n  - {name: few, placement: hot, experts: [0, 1]}\n  - {name: others, placement: warm, experts: rest}\n'
    )
    const models = [
      { id, context_length: 256 },
      { id: 'nan', model: nan },
      { id: 'tiers', tiers }
    ]
    return { ...(await serving()), nan, tiers, server: await startServer(folder, { models }) }
  },
  async end(shared) {
    await shared?.engine.dispose()
    await shared?.server.stop()
  },
  rows: [
    {
      id: 'unknown-tier',
      covers: ['S008 unknown tier', 'pattern 5'],
      inject: 'a request names a tier that the model does not have',
      code: 'CONFIG_UNKNOWN_TIER',
      at: ['library', 'cli', 'http'],
      recovery: 'the known names are in the error; nothing changed',
      async run(t, shared) {
        const error = await t.caught(
          (async () => shared.engine.generate({ model: id, prompt: 'x', tierSet: 'lukewarm' }))()
        )
        t.check('the known ones are named', Array.isArray(error.details?.known))
        await t.cli(['run', ...runArguments, '--tier-set', 'lukewarm'])
        t.sawHttp(await shared.server.complete({ tier_set: 'lukewarm' }))
        t.check('the engine goes on', await stillServes(shared))
      }
    },
    {
      id: 'group-counts',
      covers: ['S008 mismatched group counts'],
      inject: "a router of a hierarchical model has one group less than the model's metadata",
      code: 'CONFIG_GROUP_COUNT_MISMATCH',
      at: ['library', 'cli', 'http'],
      recovery: 'found before a weight is read; nothing of it is held',
      async run(t, { engine, server }) {
        const path = writeMoeModel(join(t.folder, 'groups.gguf'), {
          hser: { tiers: { hot: [2, 2], cold: [4] }, k: [1, 1, 2] },
          editTensor: (tensor) =>
            tensor.name === 'blk.1.ffn_group_router.weight'
              ? { ...tensor, shape: [64, 2], data: tensor.data.subarray(0, 64 * 2 * 4) }
              : tensor
        })
        await t.caught(engine.loadModel({ model: path, id: 'groups' }))
        await t.cli(['run', path, ...runArguments])
        t.sawHttp(await server.post('/admin/models/swap', { id, request: { model: path } }))
        t.check('it is not there', engine.listModels().length === 1)
      }
    },
    {
      id: 'invalid-expert',
      covers: ['S008 invalid expert id', 'S008 routing: detected promptly'],
      inject: 'a replayed route names an expert that does not exist',
      code: 'ROUTING_INVALID_EXPERT',
      at: ['library'],
      recovery: 'token, slot, layer and expert are named, and nothing is computed with it',
      async run(t, shared) {
        const { engine } = shared
        const { routing, logits } = await engine.forward({ model: id, tokens, captureRouting: true })
        const bad = { ...routing, ids: routing.ids.slice() }
        bad.ids[(7 * routing.layers + 1) * routing.k + 1] = 99
        await t.caught(engine.forward({ model: id, tokens, replayRouting: bad }), {
          token: 7,
          slot: 1,
          expertId: 99,
          layer: 1
        })
        const again = await engine.forward({ model: id, tokens, replayRouting: routing })
        t.check('the sound route gives its bits', Buffer.from(again.buffer).equals(Buffer.from(logits.buffer)))
      }
    },
    {
      id: 'too-few-experts',
      covers: ['S008 routing: detected promptly'],
      inject: 'a TierSet leaves a layer fewer experts than each token takes',
      code: 'ROUTING_TOO_FEW_EXPERTS',
      at: ['library', 'cli', 'http'],
      recovery: 'refused before anything is computed; the other TierSets serve',
      async run(t, shared) {
        const { tiers } = shared
        t.sawHttp(await shared.server.complete({ model: 'tiers', tier_set: 'few' }))
        await shared.engine.loadModel({ id: 'tiers', tiers })
        await t.caught((async () => shared.engine.activateTierSet('tiers', ['few']))())
        t.check(
          'the others serve',
          (await shared.engine.generate({ model: 'tiers', prompt: 'x', maxTokens: 2, tierSet: 'others' })).tokens
            .length > 0
        )
        await shared.engine.unloadModel('tiers')
        await t.cli(['run', ...runArguments, '--tiers', tiers, '--tier-set', 'few'])
      }
    },
    {
      id: 'nan',
      covers: ['S008 runtime: NaN', 'edge 7'],
      inject: 'a weight that is not a number, which one prompt meets and another does not',
      code: 'RUNTIME_NAN_DETECTED',
      at: ['library', 'cli'],
      recovery: 'layer and token are named; the other request of the batch ends with the bits it has alone',
      async run(t, { engine, nan: model, server }) {
        await engine.loadModel({ model, id: 'nan' })
        const work = (promptTokens) =>
          engine.generate({ model: 'nan', promptTokens, maxTokens: 6, temperature: 0, ignoreEos: true })
        const alone = await work([1, 2, 3])
        const [bad, good] = await Promise.allSettled([work([1, 9, 3]), work([1, 2, 3])])
        t.saw(bad.reason, { layer: 0, token: 1 })
        t.check('the other has its bits', good.value?.tokens.join() === alone.tokens.join())
        await engine.unloadModel('nan')
        await t.cli(['run', model, '-p', 'a\tb', '-n', '4'])
        await server.watched(t, async () => t.sawHttp(await server.complete({ model: 'nan', prompt: [1, 9, 3] })))
      }
    },
    {
      id: 'memory-corruption',
      covers: ['S008 runtime: memory corruption'],
      inject: "a bit of an expert's weights flips in the process' memory (written through /proc/<pid>/mem)",
      code: 'RUNTIME_MEMORY_CORRUPTION',
      at: ['library'],
      recovery:
        'the step that scrubs it ends its requests, the expert is read again, and the logits are those of before',
      async run(t) {
        const path = join(t.folder, 'checkpoint')
        await convertModel({ from: embedded, to: path })
        const engine = await createEngine({ threads: 1, maxBatchTokens: 16 })
        await engine.loadModel({ model: path, id: 'm', contextLength: 64, memory: '8MiB', scrub: 64, prefetch: 'off' })
        const logits = async () => Buffer.from((await engine.forward({ model: 'm', tokens })).buffer)
        const before = await logits()
        const manifest = manifestOf(path)
        const entry = manifest.layers[0].experts[3]
        const flipper = [
          join(root, 'bench/faults/flip-memory.mjs'),
          process.pid,
          join(path, manifest.shards[entry.shard].path),
          entry.offset + 4096
        ]
        const { status, stdout, stderr } = spawnSync(process.execPath, flipper.map(String), { encoding: 'utf8' })
        t.check(`the bit was flipped: ${stdout}${stderr}`, status === 0)
        await t.caught(logits())
        t.check('read again, the logits are those of before', (await logits()).equals(before))
        await engine.dispose()
      }
    },
    {
      id: 'broken-invariant',
      covers: ['S008 invariant violated', 'S008 runtime: panic in a kernel'],
      inject: 'an addon of another build, which reports a state that this library does not know',
      code: 'RUNTIME_INVARIANT_VIOLATED',
      at: ['cli'],
      recovery: 'the command ends by the catalogue; an engine with the sound addon gives its text',
      async run(t, shared) {
        const { nan: model } = shared
        const addon = join(t.folder, 'other.node')
        copyFileSync(join(root, 'build/Release/tiered_moe.node'), addon)
        const bytes = readFileSync(addon)
        for (
          let at = bytes.indexOf('RUNTIME_NAN_DETECTED');
          at >= 0;
          at = bytes.indexOf('RUNTIME_NAN_DETECTED', at + 1)
        )
          bytes.write('RUNTIME_NAN_UNHEARD_', at)
        writeFileSync(addon, bytes)
        await t.cli(['run', model, '-p', 'a\tb', '-n', '4'], { env: { TIERED_MOE_ADDON: addon } })
        t.check('the sound addon gives the text', await stillServes(shared))
      }
    },
    {
      id: 'starved-expert',
      covers: ['S008 starvation: monitoring', 'S008 starvation: reactivation'],
      inject: 'a router that never chooses some experts, over a window of steps',
      at: ['library'],
      recovery:
        'the event expert_starved names them; swapExperts gives such an expert other weights while the model serves',
      async run(t) {
        const model = writeMoeModel(join(t.folder, 'm.gguf'), { hser })
        const events = []
        const engine = await createEngine({ threads: 1, onEvent: (event) => events.push(event) })
        await engine.loadModel({ model, id: 'm', tierSet: 'fast', starvation: { windowSteps: 5 } })
        const work = { model: 'm', promptTokens: [5, 6, 7], temperature: 0, ignoreEos: true, maxTokens: 6 }
        await engine.generate(work)
        await sleep(20)
        const told = events.filter(({ event }) => event === 'expert_starved')
        t.seen.library = 'expert_starved'
        t.check('they are told, with what they got', told.length > 0 && told.every(({ fields }) => fields.tokens === 0))
        const { layer, expert } = told[0]?.fields ?? {}
        const { epoch } = await engine.swapExperts('m', [{ action: 'reinitialise', layer, expert, seed: 1 }])
        t.check('one is begun anew', epoch >= 1)
        t.check('the model serves', (await engine.generate(work)).tokens.length === 6)
        await engine.dispose()
      }
    }
  ]
}

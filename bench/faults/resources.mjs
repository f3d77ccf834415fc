// Memory, disks and descriptors that run out, for real: control groups, resource limits, full file systems.
import { execFile, spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { createEngine } from '../../dist/esm/index.js'
import { MAIN } from '../../test/cli/command.ts'
import { writeMoeModel } from '../../test/fixtures/moe-model.ts'
import { runInGroup } from '../cgroup.mjs'
import { root } from '../harness.mjs'
import { fillDisk, onSmallDisk } from './disks.mjs'
import { CannotInject } from './row.mjs'
import { startServer } from './server.mjs'
import { embedded, id, request, runArguments, serving, stillServes } from './serving.mjs'

const memoryCovers = ['edge 10', 'S008 insufficient memory', 'pattern 5']
const diskCovers = ['edge 9', 'S008 recoverable: resource']

let told
/** What a process said whose system refuses it memory; one process for several rows. */
function refusals(folder) {
  if (spawnSync('prlimit', ['--version']).status !== 0) throw new CannotInject('prlimit is not here (util-linux)')
  // Pages of its KV cache are of 8 MiB: what is refused is the system's memory, not a rest of what the process has.
  const sizes = { layers: 4, heads: 16, kvHeads: 16, headDim: 256, experts: 4, feedForward: 32, contextLength: 512 }
  told ??= new Promise((resolve, reject) => {
    const model = writeMoeModel(join(folder, 'model.gguf'), { type: 'F32', ...sizes })
    // A small young generation: what the limit leaves must not go to the heap of V8.
    const args = ['--max-semi-space-size=1', join(root, 'bench/faults/refused-memory.mjs'), model]
    execFile(process.execPath, args, (error, stdout) => (error ? reject(error) : resolve(JSON.parse(stdout))))
  })
  return told
}

export default {
  name: 'resources',
  title: 'Resources',
  async begin(folder) {
    return { ...(await serving()), server: await startServer(folder, { models: [{ id, context_length: 256 }] }) }
  },
  async end(shared) {
    await shared?.engine.dispose()
    await shared?.server.stop()
  },
  rows: [
    {
      id: 'budget-too-small',
      covers: memoryCovers,
      inject: 'a model is given less memory than its weights that always stay',
      code: 'RESOURCE_BUDGET_TOO_SMALL',
      at: ['library', 'cli', 'http'],
      recovery: 'bytes required and available, and what would fit; nothing is held',
      async run(t, shared) {
        await t.caught(shared.engine.loadModel({ id: 'other', memory: '100KiB' }))
        const { error } = await t.cli(['run', ...runArguments, '--memory', '100KiB'])
        const { server } = shared
        await server.watched(t, async () => {
          t.sawHttp(await server.post('/admin/models/swap', { id, request: { memory: '100KiB' } }))
          t.check('the server gives its text', (await server.text()) === shared.text)
        })
        t.check('how much it takes', error?.details.resource_info.required > 100 * 1024)
        t.check('the engine goes on', await stillServes(shared))
      }
    },
    {
      id: 'memory-refused-at-load',
      covers: memoryCovers,
      inject: 'the system grants no more memory (RLIMIT_DATA) while a model is loaded',
      code: 'RESOURCE_MEMORY_EXHAUSTED',
      at: ['library'],
      recovery: 'the load holds nothing afterwards; with the limit gone the model loads',
      async run(t) {
        const { load, before, after, loaded } = await refusals(t.folder)
        t.saw(load)
        t.check(
          `nothing of it is held: ${JSON.stringify({ before, after })}`,
          JSON.stringify(after) === JSON.stringify(before)
        )
        t.check('it loaded later', loaded)
      }
    },
    {
      id: 'memory-refused-at-growth',
      covers: [...memoryCovers, 'S008 recoverable: resource'],
      inject: 'the system grants no more memory when the KV caches of six requests grow',
      code: 'RESOURCE_MEMORY_EXHAUSTED',
      at: ['library'],
      recovery: 'who gets none has a typed error, the others their text, and the engine goes on',
      async run(t) {
        const { outcomes, expected, later } = await refusals(t.folder)
        const refused = outcomes.filter((outcome) => typeof outcome === 'object')
        t.saw(refused[0])
        t.check(`${refused.length} of 6 were refused`, refused.length < outcomes.length)
        t.check(
          'the others have their text',
          outcomes.every((outcome) => typeof outcome === 'object' || outcome === expected)
        )
        t.check('the engine goes on', later === expected)
      }
    },
    {
      id: 'memory-pressure',
      covers: ['edge 10', 'S008 resource: demote a tier', 'S008 recoverable: resource'],
      inject: 'a control group with a memory limit fills while a model serves in it',
      at: ['library'],
      recovery: 'experts are given back before the kernel kills, and the text is the same',
      async run(t) {
        const child = join(root, 'test/fixtures/pressure-child.mjs')
        const ended = await runInGroup(320 * 2 ** 20, process.execPath, [child, 'demote', root], 60)
        if (!ended) throw new CannotInject('no memory control group can be made here (root)')
        const { status, output, complaint, kills } = ended
        if (status !== 0) throw new TypeError(`${status}: ${complaint}`)
        const { before, after, changes } = JSON.parse(output)
        t.seen.library = 'expert_budget_changed'
        t.check('experts were given back', changes[0]?.reason === 'memory' && after.budget < before.budget)
        t.check('the text is the same', after.text === before.text)
        t.check('the kernel killed nobody', kills === 0)
      }
    },
    {
      id: 'disk-full-journal',
      covers: diskCovers,
      inject: "the journal's disk (a tmpfs of 256 KiB) is full when a request begins",
      code: 'JOURNAL_WRITE_FAILED',
      at: ['library'],
      recovery:
        'new requests are refused with the bytes, the one that runs has its whole text; with room again they are taken',
      run: (t, { text }) =>
        onSmallDisk('256k', async (disk) => {
          const journal = { path: join(disk, 'journal'), syncMs: 1 }
          mkdirSync(journal.path)
          const engine = await createEngine({ threads: 1, journal })
          await engine.loadModel({ id, contextLength: 256 })
          const running = engine.createGenerator({ ...request, requestId: 'running' })
          let heard = (await running.next()).value.text
          const free = fillDisk(disk)
          // More than what is left in the file's last page.
          const large = { ...request, stop: Array.from({ length: 16 }, (_, i) => `${i}`.padEnd(1000, '#')) }
          await t.caught(engine.generate({ ...large, requestId: 'refused' }), { errno: 'ENOSPC' })
          for await (const item of running) heard += item.text
          t.check('the one that ran has its text', heard === text)
          free()
          t.check('later it is taken', (await engine.generate({ ...large, requestId: 'refused' })).text === text)
          await engine.dispose()
        })
    },
    {
      id: 'disk-full-convert',
      covers: diskCovers,
      inject: 'a checkpoint is converted onto a disk that is too small for it',
      code: 'RESOURCE_DISK_EXHAUSTED',
      at: ['cli'],
      recovery: 'how much is needed and free; on a larger disk the same command goes through',
      run: (t) =>
        onSmallDisk('1m', async (disk) => {
          await t.cli(['convert', embedded, join(disk, 'to')])
          const { code } = await t.fine(['convert', embedded, join(t.folder, 'to')])
          t.check('it goes through elsewhere', code === 0)
        })
    },
    {
      id: 'disk-full-quantize',
      covers: diskCovers,
      inject: 'a model is quantised onto a full disk',
      code: 'FILE_WRITE_FAILED',
      at: ['cli'],
      recovery: 'no half of a file stays there',
      run: (t) =>
        onSmallDisk('256k', async (disk) => {
          const from = writeMoeModel(join(t.folder, 'f32.gguf'))
          await t.cli(['quantize', from, join(disk, 'to.gguf'), '--type', 'q8_0'])
          t.check(`nothing stays: ${readdirSync(disk)}`, readdirSync(disk).length === 0)
        })
    },
    {
      id: 'output-full',
      covers: [...diskCovers, 'pattern 5'],
      inject: 'the standard output of a command is a full disk (/dev/full)',
      code: 'FILE_WRITE_FAILED',
      at: ['cli'],
      recovery: 'the command ends by the catalogue and not by an exception',
      async run(t) {
        const { status, stderr } = spawnSync(
          'sh',
          ['-c', 'exec "$@" > /dev/full', 'sh', process.execPath, MAIN, 'run', ...runArguments, '--json'],
          { encoding: 'utf8' }
        )
        t.sawCommand(status, stderr)
        t.check('no exception is printed', !/^\s+at .*:\d+:\d+\)?$/m.test(stderr))
      }
    },
    {
      id: 'context-full',
      covers: ['S008 configuration: descriptive message', 'pattern 5'],
      inject: "a prompt that is longer than the model's context",
      code: 'CONTEXT_LENGTH_EXCEEDED',
      at: ['library', 'cli', 'http'],
      recovery: 'refused before anything is computed',
      async run(t, shared) {
        const prompt = 'word '.repeat(800)
        await t.caught((async () => shared.engine.generate({ model: id, prompt }))())
        await t.cli(['run', '-p', prompt])
        t.sawHttp(await shared.server.complete({ prompt }))
        t.check('the engine goes on', await stillServes(shared))
      }
    }
  ]
}

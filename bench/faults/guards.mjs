// What watches over the process itself: descriptors that run out, steps that get nowhere, things that are not given back.
import { closeSync, openSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { LeakWatch } from '../../dist/esm/guards/leaks.js'
import { createEngine } from '../../dist/esm/index.js'
import { native } from '../../dist/esm/native.js'
import { freezer, threads } from './freezer.mjs'
import { script } from './script.mjs'
import { id, request, serving } from './serving.mjs'

const leaky = "import { openSync } from 'node:fs'; setInterval(() => openSync('/dev/null'), 20).unref()"

export default {
  name: 'guards',
  title: 'Guards',
  async begin() {
    const { engine, text } = await serving()
    await engine.dispose()
    return { text }
  },
  rows: [
    {
      id: 'files-exhausted',
      covers: ['edge 8', 'S008 exhausted file descriptors', 'S008 recoverable: resource'],
      inject: 'the process may open no more files (RLIMIT_NOFILE) when a model is loaded',
      code: 'RESOURCE_FILES_EXHAUSTED',
      at: ['library'],
      recovery: 'the errno and the limit are there; once some are closed the same model loads',
      async run(t) {
        const { error, loaded } = await script(
          `import { spawnSync } from 'node:child_process'
          import { closeSync, openSync } from 'node:fs'
          const engine = await createEngine({ threads: 1 })
          await engine.loadModel({ id: 'first' })
          const held = []
          spawnSync('prlimit', ['--pid', process.pid, '--nofile=200:'])
          try { for (;;) held.push(openSync('/dev/null')) } catch {}
          const error = await engine.loadModel({ id: 'second' }).then(() => null, (error) => error)
          for (const fd of held) closeSync(fd)
          const loaded = await engine.loadModel({ id: 'second' }).then(({ id }) => id)
          console.log(JSON.stringify({ error, loaded }))
          await engine.dispose()`
        )
        t.saw(error, { errno: 'EMFILE' })
        t.check('it loads later', loaded === 'second')
      }
    },
    {
      id: 'step-watchdog',
      covers: ['edge 4', 'pattern 7', 'S008 runtime: panic in a kernel'],
      inject: 'the kernel freezes the compute threads in the middle of a step, of a request without a deadline',
      code: 'RUNTIME_STEP_STUCK',
      at: ['library'],
      recovery: 'the watchdog ends the request; the engine is recovering until the step ends, then it serves as before',
      async run(t, { text }) {
        const frozen = freezer()
        await readFile('/proc/self/stat')
        const before = new Set(threads())
        const engine = await createEngine({ threads: 2, guards: { stepMs: 200 }, timeouts: { cleanupMs: 100 } })
        const own = threads().filter((thread) => !before.has(thread))
        try {
          await engine.loadModel({ id, contextLength: 256 })
          const running = engine.createGenerator({ ...request, maxTokens: 200 })
          await running.next()
          frozen.freeze(own)
          await t.caught(
            (async () => {
              for await (const _ of running);
            })()
          )
          t.check(`the engine is ${engine.state}`, engine.state === 'recovering')
          frozen.thaw()
          while (engine.state === 'recovering') await sleep(5)
          t.check('the same text afterwards', (await engine.generate(request)).text === text)
        } finally {
          frozen.remove(own)
          await engine.dispose()
        }
      }
    },
    {
      id: 'leak-planted',
      covers: ['edge 8', 'pattern 4'],
      inject: 'something in the process opens files and does not close them',
      code: 'RESOURCE_LEAK_DETECTED',
      at: ['library', 'cli'],
      recovery: 'the descriptors are named; once they are closed, and without the culprit, nothing is found',
      async run(t) {
        const watch = LeakWatch.begin(native())
        const descriptor = openSync('/dev/null')
        const { details } = await t.caught(watch.assert(50))
        t.check('it is named', JSON.stringify(details?.leakedFiles).includes('/dev/null'))
        closeSync(descriptor)
        await watch.assert()
        const NODE_OPTIONS = `--import=data:text/javascript,${encodeURIComponent(leaky)}`
        await t.cli(['doctor', '--leaks'], { env: { NODE_OPTIONS } })
        const { code } = await t.fine(['doctor', '--leaks'])
        t.check('nothing is found without it', code === 0)
      }
    }
  ]
}

// Engines in processes of their own: a process that dies costs no request its text (or ends it with a typed error), and never the host.
import { spawn } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createEngine } from '../../dist/esm/index.js'
import { createServer } from '../../dist/esm/server/index.js'
import { memoryGroup } from '../cgroup.mjs'
import { root } from '../harness.mjs'
import { Client } from '../serve.mjs'
import { CannotInject } from './row.mjs'
import { script } from './script.mjs'
import { id, request, serving } from './serving.mjs'

const crash = ['edge 7', 'edge 8', 'S008 runtime: panic in a kernel', 'S008 runtime: abort and restart']
const startup = ['edge 8', 'S008 resource: fatal where essential', 'pattern 5']
const long = { ...request, maxTokens: 200 }
const inWorker = (text) => ['--import', `data:text/javascript,${encodeURIComponent(text)}`]

/** Runs `use` with an isolated engine that has the model loaded. */
async function isolated(t, isolation, use, options = {}) {
  const engine = await createEngine({
    threads: 1,
    isolation: { mode: 'process', restartDelayBaseMs: 10, crashFolder: join(t.folder, 'crashes'), ...isolation },
    ...options
  })
  try {
    await engine.loadModel({ id, contextLength: 256 })
    await use(engine)
  } finally {
    await engine.dispose()
  }
}

/** A generation of which `hurt` ends the worker after some tokens; the whole text, or its error. */
async function interrupted(engine, hurt) {
  let [text, tokens] = ['', 0]
  for await (const item of engine.createGenerator(long)) {
    text += item.text
    if (++tokens === 4) await hurt(engine.workers()[0].pid)
  }
  return text
}

/** Resolves when every worker is there again. */
async function back(engine) {
  for (let i = 0; i < 1000 && engine.workers().some(({ state }) => state !== 'ready'); i++) await sleep(5)
}

/** The text of a request once the workers are there again. */
async function textAfter(engine) {
  await back(engine)
  return (await engine.generate(long)).text
}

/** A row of a worker that dies while its stream goes on in the next process. */
const resumed = (row, signal, reason) => ({
  at: ['library'],
  recovery: 'a new process goes on: the text is that of an undisturbed run; a record of the crash is written',
  ...row,
  run: (t, { whole }) =>
    isolated(t, {}, async (engine) => {
      const first = engine.workers()[0].pid
      t.check('the text is the same', (await interrupted(engine, (pid) => process.kill(pid, signal))) === whole)
      t.seen.library = '(none)'
      const [{ pid, restarts, lastCrash }] = engine.workers()
      t.check('another process serves', pid !== first && restarts === 1)
      t.check(
        `it ended by ${lastCrash?.signal}, ${lastCrash?.reason}`,
        lastCrash?.signal === signal && lastCrash.reason === reason
      )
      t.check('the record is there', existsSync(lastCrash?.crashRecord ?? ''))
    })
})

/** A row of a worker that does not start. */
const unstartable = (row, isolation, details) => ({
  at: ['library'],
  recovery: 'createEngine rejects, no process and no folder stays; the same engine without the fault starts',
  ...row,
  async run(t, { whole }) {
    await t.caught(
      createEngine({
        threads: 1,
        isolation: { mode: 'process', crashFolder: join(t.folder, 'crashes'), ...isolation }
      }),
      details
    )
    t.check('an engine of this process serves', whole.length > 0)
  }
})

const tryIsolated = `const error = await createEngine({ threads: 1, isolation: 'process' }).then((engine) => engine.dispose(), (error) => error)`

export default {
  name: 'workers',
  title: 'Worker processes',
  async begin() {
    const { engine } = await serving()
    const { text } = await engine.generate(long)
    await engine.dispose()
    return { whole: text }
  },
  rows: [
    {
      id: 'binary-missing',
      covers: startup,
      inject: "an installation of which the worker's program was removed",
      code: 'WORKER_BINARY_NOT_FOUND',
      at: ['library'],
      recovery: 'the path is named; an engine in the process itself starts from the same installation',
      async run(t) {
        const copy = join(t.folder, 'package')
        mkdirSync(copy)
        for (const name of ['dist', 'addon.cjs', 'webgpu.cjs', 'package.json', 'models'])
          cpSync(join(root, name), join(copy, name), { recursive: true })
        for (const name of ['build', 'node_modules']) symlinkSync(join(root, name), join(copy, name))
        rmSync(join(copy, 'dist/esm/isolation/worker-main.js'))
        const { error, inProcess } = await script(
          `${tryIsolated}
          const engine = await createEngine({ threads: 1 })
          console.log(JSON.stringify({ error, inProcess: engine.state }))
          await engine.dispose()`,
          copy
        )
        t.saw(error, { path: join(copy, 'dist/esm/isolation/worker-main.js') })
        t.check(`an engine in the process is ${inProcess}`, inProcess !== 'closed')
        rmSync(copy, { recursive: true })
      }
    },
    {
      id: 'spawn-failed',
      covers: [...startup, 'S008 exhausted file descriptors'],
      inject: 'the process may open no more files (RLIMIT_NOFILE) when the worker is started',
      code: 'WORKER_SPAWN_FAILED',
      at: ['library'],
      recovery: "the system's own reason is there; with the limit gone a worker starts",
      async run(t) {
        const { error, later } = await script(
          `import { spawnSync } from 'node:child_process'
          import { closeSync, openSync } from 'node:fs'
          await createEngine({ threads: 1 }).then((engine) => engine.dispose())
          const held = []
          spawnSync('prlimit', ['--pid', process.pid, '--nofile=100:'])
          try { for (;;) held.push(openSync('/dev/null')) } catch {}
          for (let i = 0; i < 5; i++) closeSync(held.pop())
          ${tryIsolated}
          for (const fd of held) closeSync(fd)
          spawnSync('prlimit', ['--pid', process.pid, '--nofile=1024:'])
          const later = await createEngine({ threads: 1, isolation: 'process' })
          console.log(JSON.stringify({ error, later: later.workers()[0].state }))
          await later.dispose()`
        )
        t.saw(error)
        t.check(`the errno is ${error?.details?.errno}`, error?.details?.errno === 'EMFILE')
        t.check(`later a worker is ${later}`, later === 'ready')
      }
    },
    unstartable(
      {
        id: 'init-crash',
        covers: [...startup, 'S008 runtime: panic in a kernel'],
        inject: 'the worker gets a SIGSEGV before it is ready',
        code: 'WORKER_INIT_CRASHED'
      },
      {
        execArgv: inWorker("process.kill(process.pid, 'SIGSEGV'); await new Promise(() => setInterval(() => {}, 1000))")
      },
      { signal: 'SIGSEGV', exitCode: 139 }
    ),
    unstartable(
      {
        id: 'start-timeout',
        covers: [...startup, 'edge 4', 'pattern 7'],
        inject: 'the worker stands still before it is ready',
        code: 'WORKER_START_TIMEOUT'
      },
      { execArgv: inWorker('await new Promise(() => setInterval(() => {}, 1000))'), startTimeoutMs: 400 }
    ),
    resumed(
      {
        id: 'sigsegv',
        covers: [...crash, 'S008 node failure: reconstruction'],
        inject: 'SIGSEGV in the middle of a stream'
      },
      'SIGSEGV',
      'signal'
    ),
    resumed(
      {
        id: 'sigabrt',
        full: true,
        covers: crash,
        inject: 'SIGABRT (an abort in native code) in the middle of a stream'
      },
      'SIGABRT',
      'abort'
    ),
    {
      id: 'sigkill-fails',
      covers: [...crash, 'pattern 6'],
      inject: 'SIGKILL in the middle of a request, where streams are not to go on (onCrash: fail)',
      code: 'WORKER_CRASHED',
      at: ['library', 'http'],
      recovery:
        'the text, tokens and usage up to then are in the error; the next request has its text from a new process',
      run: (t, { whole }) =>
        isolated(t, { onCrash: 'fail' }, async (engine) => {
          const { details } = await t.caught(
            interrupted(engine, (pid) => process.kill(pid, 'SIGKILL')),
            { signal: 'SIGKILL', exitCode: 137 }
          )
          t.check('the partial text', typeof details?.text === 'string' && whole.startsWith(details.text))
          t.check('the next one', (await textAfter(engine)) === whole)
          const server = await createServer(engine, { port: 0 })
          await server.listen()
          const client = new Client(server.url)
          const asked = client.complete({ max_tokens: 200 })
          while (engine.workers()[0].streams === 0) await sleep(1)
          process.kill(engine.workers()[0].pid, 'SIGKILL')
          t.sawHttp(await asked)
          await server.close()
        })
    },
    {
      id: 'out-of-memory',
      covers: [...crash, 'edge 10', 'S008 insufficient memory'],
      inject: 'the worker takes more memory than its control group has, and the kernel kills it',
      code: 'WORKER_OUT_OF_MEMORY',
      at: ['library'],
      recovery:
        'told from any other SIGKILL by the counters of the kernel; the host lives, and the next process serves',
      async run(t, { whole }) {
        const group = memoryGroup(48 * 2 ** 20)
        if (!group) throw new CannotInject('no memory control group can be made here (root)')
        const flag = join(t.folder, 'now')
        const eat = `import { existsSync, rmSync } from 'node:fs'
          setInterval(() => { if (existsSync(${JSON.stringify(flag)})) { rmSync(${JSON.stringify(flag)}); globalThis.eaten = Buffer.alloc(2 ** 28, 1) } }, 1).unref()`
        try {
          await isolated(t, { onCrash: 'fail', heartbeatMs: 50, execArgv: inWorker(eat) }, async (engine) => {
            writeFileSync(join(group.folder, 'cgroup.procs'), String(engine.workers()[0].pid))
            await sleep(120)
            await t.caught(
              interrupted(engine, () => writeFileSync(flag, '')),
              { exitCode: 137 }
            )
            t.check('the next process serves', (await textAfter(engine)) === whole)
          })
        } finally {
          group.remove()
        }
      }
    },
    {
      id: 'corrupt-frame',
      covers: [...crash, 'S008 recoverable: timeout'],
      inject: 'bytes that are no frame come over the channel of the worker, in the middle of a stream',
      code: 'WORKER_PROTOCOL_ERROR',
      at: ['library'],
      recovery: 'that worker is replaced, and the next request has its text',
      run: (t, { whole }) => {
        const flag = join(t.folder, 'now')
        const babble = `import { existsSync, rmSync, writeSync } from 'node:fs'
          setInterval(() => { if (existsSync(${JSON.stringify(flag)})) { rmSync(${JSON.stringify(flag)}); writeSync(3, 'nonsense'.repeat(8)) } }, 1).unref()`
        return isolated(t, { onCrash: 'fail', execArgv: inWorker(babble) }, async (engine) => {
          await t.caught(interrupted(engine, () => writeFileSync(flag, '')))
          t.check('the next one', (await textAfter(engine)) === whole)
          t.check('from another process', engine.workers()[0].restarts === 1)
        })
      }
    },
    {
      id: 'unresponsive',
      covers: [...crash, 'S008 node failure: detection', 'edge 4'],
      inject: 'SIGSTOP: the worker gives no sign of life any more',
      code: 'WORKER_CRASHED',
      at: ['library'],
      recovery: 'found by its heartbeats, killed (137) and replaced; the next request has its text',
      run: (t, { whole }) =>
        isolated(t, { onCrash: 'fail', heartbeatMs: 50, heartbeatTimeoutMs: 400 }, async (engine) => {
          await t.caught(
            interrupted(engine, (pid) => process.kill(pid, 'SIGSTOP')),
            { reason: 'unresponsive', exitCode: 137 }
          )
          t.check('the next one', (await textAfter(engine)) === whole)
        })
    },
    {
      id: 'restarts-exhausted',
      covers: [...crash, 'S008 fatal: abort'],
      inject: 'the worker is killed again whenever it is back, with one restart allowed',
      code: 'WORKER_RESTARTS_EXHAUSTED',
      at: ['library'],
      recovery: 'the engine is closed and says so; the host lives',
      run: (t) =>
        isolated(t, { maxRestarts: 1 }, async (engine) => {
          const asked = engine.generate(long)
          const caught = t.caught(asked)
          const killed = new Set()
          for (let i = 0; i < 2000 && killed.size < 2; i++) {
            const { pid, streams } = engine.workers()[0]
            if (pid && !killed.has(pid) && streams > 0) {
              process.kill(pid, 'SIGKILL')
              killed.add(pid)
            }
            await sleep(2)
          }
          await caught
          t.check(`the engine is ${engine.state}`, engine.state === 'closed')
        })
    },
    {
      id: 'one-of-two-dies',
      covers: ['edge 13', 'S008 node failure: degradation', 'S008 node failure: detection'],
      inject: 'one of two workers is killed while both have streams, and stays away for a while',
      at: ['library'],
      recovery: 'the other one serves meanwhile; the streams of the dead one go on in it with the same tokens',
      run: (t, { whole }) =>
        isolated(t, { workers: 2, restartDelayBaseMs: 300 }, async (engine) => {
          const streams = [engine.generate(long), engine.generate(long)]
          while (engine.workers().some(({ streams }) => streams === 0)) await sleep(1)
          process.kill(engine.workers()[0].pid, 'SIGKILL')
          const meanwhile = await engine.generate(request)
          t.check('the other one serves meanwhile', whole.startsWith(meanwhile.text))
          t.check('it was back later only', engine.workers()[0].state !== 'ready' || engine.workers()[0].restarts > 0)
          t.check(
            'both texts are whole',
            (await Promise.all(streams)).every(({ text }) => text === whole)
          )
          t.seen.library = '(none)'
        })
    },
    {
      id: 'all-workers-refuse',
      covers: ['edge 13', 'edge 3', 'pattern 8'],
      inject: 'a request comes while the only worker is dead',
      code: 'SERVICE_UNAVAILABLE',
      at: ['library', 'http'],
      recovery: 'refused at once with the reason and when to come again; later it is served',
      run: (t, { whole }) =>
        isolated(t, { onCrash: 'fail', restartDelayBaseMs: 700 }, async (engine) => {
          const server = await createServer(engine, { port: 0 })
          await server.listen()
          process.kill(engine.workers()[0].pid, 'SIGKILL')
          while (engine.workers()[0].state === 'ready') await sleep(2)
          const { details } = await t.caught((async () => engine.generate(request))())
          t.check(`the reason is ${details?.reason}`, details?.reason === 'workers')
          t.sawHttp(await new Client(server.url).complete())
          t.check('later it is served', (await textAfter(engine)) === whole)
          await server.close()
        })
    },
    {
      id: 'eleventh-stream',
      covers: ['edge 3', 'edge 13', 'pattern 8'],
      inject: 'one stream more than the workers may have',
      code: 'SERVICE_UNAVAILABLE',
      at: ['library'],
      recovery:
        'refused with the reason and when to come again; the ten that run have their texts, and later there is room',
      run: (t, { whole }) =>
        isolated(t, {}, async (engine) => {
          const ten = Array.from({ length: 10 }, () => engine.generate(long))
          while (engine.workers()[0].streams < 10) await sleep(1)
          const { details } = await t.caught((async () => engine.generate(request))())
          t.check(
            `the reason is ${details?.reason}, of ${details?.limit}`,
            details?.reason === 'streams' && details.limit === 10
          )
          t.check(
            'the ten have their texts',
            (await Promise.all(ten)).every(({ text }) => text === whole)
          )
          t.check('later there is room', whole.startsWith((await engine.generate(request)).text))
        })
    },
    {
      id: 'host-killed',
      covers: ['edge 8', 'pattern 4'],
      inject: 'SIGKILL of the host, with a worker that has a temporary folder',
      at: ['library'],
      recovery: 'the worker ends by itself, and the next engine removes what was left',
      async run(t) {
        const text = `
          import { createEngine } from ${JSON.stringify(join(root, 'dist/esm/index.js'))}
          const engine = await createEngine({ threads: 1, isolation: 'process' })
          await engine.loadModel()
          console.log(engine.workers()[0].pid)
          for await (const _ of engine.createGenerator({ model: '${id}', prompt: 'x', maxTokens: 200, ignoreEos: true })) await new Promise((resolve) => setTimeout(resolve, 20))`
        const before = readdirSync(tmpdir())
        const host = spawn(process.execPath, ['--input-type=module', '-e', text], {
          stdio: ['ignore', 'pipe', 'inherit']
        })
        const pid = Number(await new Promise((resolve) => host.stdout.once('data', resolve)))
        const ended = new Promise((resolve) => host.on('close', resolve))
        host.kill('SIGKILL')
        await ended
        const alive = () => {
          try {
            return !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ')
          } catch {
            return false
          }
        }
        for (let i = 0; i < 300 && alive(); i++) await sleep(10)
        t.check('the worker is gone', !alive())
        await isolated(t, {}, async () => {})
        const left = readdirSync(tmpdir()).filter((name) => !before.includes(name))
        t.check(`what was left is removed: ${left}`, left.length === 0)
        t.seen.library = '(none)'
      }
    }
  ]
}

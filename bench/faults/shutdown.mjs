// Ends: what was accepted gets its answer or a typed error, and what a dead process left is gone on with.
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createEngine } from '../../dist/esm/index.js'
import { command } from '../../test/cli/command.ts'
import { root } from '../harness.mjs'
import { startServer, streamed } from './server.mjs'
import { id, request, runArguments, serving, stillServes, textOf } from './serving.mjs'

const covers = ['edge 11', 'pattern 4']
const long = ['-n', '240']
const whole = { ...request, maxTokens: 240 }

/** Runs `run` with signals: one as soon as a token is there, each further one with the next token. */
function interrupted(args, signals) {
  let sent = 0
  return command(['run', ...runArguments, ...args, '--json'], {
    onOutput(child) {
      if (sent < signals.length) child.kill(signals[sent++])
    }
  })
}

const ending = ({ code, signal }) => code ?? signal

export default {
  name: 'shutdown',
  title: 'Shutdown',
  async begin(folder) {
    const shared = await serving()
    const server = await startServer(folder, { models: [{ id, context_length: 256 }] })
    return { ...shared, whole: (await shared.engine.generate(whole)).text, server, folder }
  },
  async end(shared) {
    await shared?.engine.dispose()
    await shared?.server.stop()
  },
  rows: [
    {
      id: 'sigterm-drains',
      covers,
      inject: 'SIGTERM in the middle of an answer, with time to drain',
      at: ['cli'],
      recovery: 'the whole answer comes, and the process ends with 0',
      async run(t, shared) {
        const outcome = await interrupted([...long, '--drain', '60'], ['SIGTERM'])
        t.sawCommand(ending(outcome), outcome.stderr)
        t.check('the whole text', textOf(outcome) === shared.whole)
      }
    },
    {
      id: 'second-signal',
      covers,
      inject: 'a second SIGTERM while the first one drains',
      exit: 143,
      at: ['cli'],
      recovery: 'the process ends at once',
      async run(t, shared) {
        // Slow, so that it has not ended by itself.
        const slow = ['--isa', 'scalar', '--threads', '1']
        const outcome = await interrupted([...long, ...slow, '--drain', '60'], ['SIGTERM', 'SIGTERM'])
        t.sawCommand(ending(outcome), outcome.stderr)
        t.check('what came is the beginning of the answer', shared.whole.startsWith(textOf(outcome)))
      }
    },
    {
      id: 'sigint',
      covers,
      inject: 'Ctrl-C (SIGINT) in the middle of an answer, without time to drain',
      exit: 130,
      at: ['cli'],
      recovery: 'native work stops, and what came is the beginning of the answer',
      async run(t, shared) {
        const outcome = await interrupted(long, ['SIGINT'])
        t.sawCommand(ending(outcome), outcome.stderr)
        t.check('the beginning of the answer', shared.whole.startsWith(textOf(outcome)))
      }
    },
    {
      id: 'frozen',
      covers: ['edge 11', 'edge 12', 'pattern 8'],
      inject: 'a request comes while the engine is frozen for maintenance',
      code: 'ENGINE_FROZEN',
      at: ['library', 'http'],
      recovery: 'it says when to come again; after thaw() requests are taken',
      async run(t, shared) {
        const running = shared.engine.generate(request)
        const frozen = shared.engine.freeze()
        await t.caught((async () => shared.engine.generate(request))())
        t.check('the one that ran has its text', (await running).text === shared.text)
        await frozen
        await shared.engine.thaw()
        t.check('requests are taken again', await stillServes(shared))
        const { server } = shared
        await server.post('/admin/freeze', {})
        t.sawHttp(await server.complete())
        await server.post('/admin/thaw', {})
        t.check('the server takes them too', (await server.text()) === shared.text)
      }
    },
    {
      id: 'server-drains',
      covers: [...covers, 'edge 13', 'pattern 8'],
      inject: 'SIGTERM to a server with a stream under way, then another request',
      code: 'SERVICE_UNAVAILABLE',
      at: ['http'],
      recovery: 'the stream comes whole, the new request is refused with Retry-After, and the process ends with 0',
      async run(t, shared) {
        // Slow, so that the stream outlasts what happens meanwhile.
        const settings = { engine: { threads: 1, isa: 'scalar' }, models: [{ id, context_length: 256 }] }
        const server = await startServer(shared.folder, settings)
        let begun
        const first = new Promise((resolve) => {
          begun = resolve
        })
        const stream = server.complete({ max_tokens: 240, stream: true }, { onData: begun })
        await first
        server.child.kill('SIGTERM')
        for (let i = 0; i < 200 && !server.told().includes('"server_draining"'); i++) await sleep(5)
        t.sawHttp(await server.complete())
        t.check('the stream is whole', streamed((await stream).text) === shared.whole)
        t.check(`the server ended with ${await server.ended}`, (await server.ended) === 0)
      }
    },
    {
      id: 'disposed-in-flight',
      covers: [...covers, 'edge 7'],
      inject: 'the engine is disposed in the middle of a generation, without time to drain',
      code: 'ENGINE_DISPOSED',
      at: ['library'],
      recovery: 'the text up to then is in the error, and everything is given back',
      async run(t) {
        const engine = await createEngine({ threads: 1 })
        await engine.loadModel({ id })
        const generator = engine.createGenerator(whole)
        const { value } = await generator.next()
        const rest = t.caught(
          (async () => {
            for await (const _ of generator);
          })()
        )
        const disposed = engine.dispose({ drainMs: 0 })
        const { details } = await rest
        await disposed
        t.check('the text is there', details?.text.startsWith(value.text))
        t.check('the engine is closed', engine.state === 'closed')
      }
    },
    {
      id: 'sigkill-journal',
      covers: ['edge 7', 'edge 11', 'S008 runtime: abort and restart'],
      inject: 'SIGKILL in the middle of a journaled generation',
      exit: 137,
      at: ['cli'],
      recovery: 'another process goes on with it: the tokens together are those without a kill',
      async run(t, shared) {
        const journal = join(t.folder, 'journal')
        const text = `
          import { createEngine } from ${JSON.stringify(join(root, 'dist/esm/index.js'))}
          const engine = await createEngine({ threads: 1, journal: { path: ${JSON.stringify(journal)}, syncMs: 0 } })
          await engine.loadModel({ id: '${id}', contextLength: 256 })
          for await (const item of engine.createGenerator(${JSON.stringify({ ...whole, requestId: 'killed' })})) process.stdout.write(item.text)`
        const child = spawn(process.execPath, ['--input-type=module', '-e', text], {
          stdio: ['ignore', 'pipe', 'inherit']
        })
        let heard = ''
        child.stdout.setEncoding('utf8').on('data', (part) => {
          heard += part
          child.kill('SIGKILL')
        })
        const signal = await new Promise((resolve) => child.on('close', (_, name) => resolve(name)))
        t.sawCommand(signal === 'SIGKILL' ? 137 : signal, '')
        const engine = await createEngine({ threads: 1, journal })
        let rest = ''
        for await (const item of await engine.resumeGenerator({ requestId: 'killed' })) rest += item.text
        t.check('the whole text', rest === shared.whole)
        t.check('what was heard is its beginning', rest.startsWith(heard))
        await engine.dispose()
      }
    }
  ]
}

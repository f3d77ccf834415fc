// Time: every deadline is a code of its own, with what there was up to then, and what ran is stopped.
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { createEngine } from '../../dist/esm/index.js'
import { freezer, threads } from './freezer.mjs'
import { startServer } from './server.mjs'
import { id, request, runArguments, serving, stillServes } from './serving.mjs'

const covers = ['edge 4', 'pattern 7', 'S008 recoverable: timeout']
const long = { ...request, maxTokens: 200 }

export default {
  name: 'time',
  title: 'Time',
  async begin(folder) {
    // Slow, so that a deadline is over before the text is whole.
    const settings = { engine: { threads: 1, isa: 'scalar' }, models: [{ id, context_length: 256 }] }
    const server = await startServer(folder, {
      ...settings,
      server: { deadlines: { request_ms: 100, stream_ms: 60, first_token_ms: 50 } }
    })
    return { ...(await serving()), server }
  },
  async end(shared) {
    await shared?.engine.dispose()
    await shared?.server.stop()
  },
  rows: [
    {
      id: 'request-deadline',
      covers,
      inject: 'a request is allowed less time than it takes',
      code: 'INFERENCE_TIMEOUT',
      at: ['library', 'cli', 'http'],
      recovery:
        'its text, tokens and usage up to then are in the error; native work stops; the next request has its text',
      async run(t, shared) {
        const { details } = await t.caught(shared.engine.generate(long, { timeoutMs: 15 }))
        t.check(
          'what there was is there',
          typeof details?.text === 'string' && details.usage && Array.isArray(details.tokens)
        )
        t.check('nothing runs on', shared.engine.counters().activeJobs === 0)
        await t.cli(['run', ...runArguments, '-n', '240'], { env: { TIERED_MOE__TIMEOUTS__REQUEST_MS: '15' } })
        const { server } = shared
        await server.watched(t, async () => {
          const answer = await server.complete({ max_tokens: 240 })
          t.sawHttp(answer)
          t.check('an answer has it too', typeof answer.body?.error?.details.text === 'string')
        })
        t.check('the engine goes on', await stillServes(shared))
      }
    },
    {
      id: 'stream-deadline',
      covers: [...covers, 'edge 7', 'pattern 6'],
      inject: 'a stream is allowed less time than its text takes, when its status has been sent',
      code: 'INFERENCE_TIMEOUT',
      at: ['library'],
      recovery: 'the error comes inside the stream, which ends without [DONE]; the server answers the next one',
      async run(t, { server }) {
        await server.watched(t, async () => {
          const { status, text } = await server.complete({ max_tokens: 240, stream: true })
          const events = [...text.matchAll(/^data: (.*)$/gm)].map(([, data]) => data)
          t.check(`its status is ${status}`, status === 200)
          t.check('some text came before', events.length > 1)
          t.saw(JSON.parse(events.at(-1)).error)
          t.check('no [DONE]', !events.includes('[DONE]'))
          t.check('the next one is answered', (await server.text({ max_tokens: 1 }))?.length > 0)
        })
      }
    },
    {
      id: 'inference-deadline',
      covers,
      inject: 'the computing of a request is allowed less time than it takes',
      code: 'INFERENCE_TIMEOUT',
      at: ['library'],
      recovery: 'the inner deadline ends it before the outer one, with what there was',
      async run(t) {
        const engine = await createEngine({ threads: 1, timeouts: { requestMs: 60_000, inferenceMs: 20 } })
        await engine.loadModel({ id })
        await t.caught(engine.generate(long), { deadline: 'inference', timeout: 20 })
        t.check('nothing is left of it', engine.listModels()[0].activeSequences === 0)
        await engine.dispose()
      }
    },
    {
      id: 'load-deadline',
      covers,
      inject: 'a model is allowed a millisecond to load',
      code: 'MODEL_LOAD_TIMEOUT',
      at: ['library', 'cli'],
      recovery: 'nothing of the model is held; with the time it needs it loads',
      async run(t, { engine }) {
        await t.caught(engine.loadModel({ id: 'other' }, { timeoutMs: 1 }))
        await t.cli(['run', ...runArguments], { env: { TIERED_MOE__TIMEOUTS__LOAD_MS: '1' } })
        const later = await engine.loadModel({ id: 'other' })
        await engine.unloadModel('other')
        t.check('it loaded afterwards', later.id === 'other')
      }
    },
    {
      id: 'abort',
      covers: ['edge 4', 'edge 7', 'pattern 4'],
      inject: 'the caller aborts in the middle of a generation',
      code: 'CANCELLED',
      at: ['library'],
      recovery: 'the text up to then is in the error; native work stops; others keep their bits',
      async run(t, shared) {
        const controller = new AbortController()
        const other = shared.engine.generate(request)
        let text = ''
        const error = await t.caught(
          (async () => {
            for await (const item of shared.engine.createGenerator(long, { signal: controller.signal })) {
              text += item.text
              if (text.length > 10) controller.abort()
            }
          })()
        )
        t.check('the partial text', error.details?.text.startsWith(text))
        t.check('the other request has its text', (await other).text === shared.text)
        t.check('no sequence is left', shared.engine.listModels()[0].activeSequences === 0)
      }
    },
    {
      id: 'stuck-step',
      covers: [...covers, 'S008 runtime: panic in a kernel'],
      inject: 'the kernel freezes the compute threads in the middle of a step',
      code: 'INFERENCE_TIMEOUT',
      at: ['library'],
      recovery:
        'the request ends at the cleanup deadline, the engine is recovering until the step ends, then it serves as before',
      async run(t, { text }) {
        const frozen = freezer()
        // libuv's own threads are there before: what is new is the engine's.
        await readFile('/proc/self/stat')
        const before = new Set(threads())
        const states = []
        const engine = await createEngine({
          threads: 2,
          timeouts: { cleanupMs: 100 },
          onTransition: ({ next }) => states.push(next)
        })
        const own = threads().filter((thread) => !before.has(thread))
        try {
          await engine.loadModel({ id, contextLength: 256 })
          const running = engine.createGenerator(long, { timeoutMs: 150 })
          await running.next()
          frozen.freeze(own)
          await t.caught(
            (async () => {
              for await (const _ of running);
            })()
          )
          t.check(`the engine is recovering, not ${engine.state}`, engine.state === 'recovering')
          frozen.thaw()
          while (engine.state === 'recovering') await sleep(5)
          t.check(`it was ${states}`, states.join() === 'warm,active,recovering,active')
          t.check('the same text afterwards', (await engine.generate(request)).text === text)
        } finally {
          frozen.remove(own)
          await engine.dispose()
        }
      }
    }
  ]
}

// Capacity: who comes too much is told so at once, with the reason and when to come again; who is served does not notice.
import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { startServer } from './server.mjs'
import { id } from './serving.mjs'

const limits = ['edge 3', 'pattern 8', 'S008 recoverable: resource']
const rates = ['edge 15', 'pattern 8']
const key = (name, quota) => ({
  id: name,
  sha256: createHash('sha256').update(name).digest('hex'),
  ...(quota && { quota })
})
const long = { max_tokens: 240, stream: true }

/** A stream that runs until it is ended; resolves once its first token is there. */
async function held(server, options = {}) {
  const controller = new AbortController()
  let begun
  const first = new Promise((resolve) => {
    begun = resolve
  })
  const done = server
    .complete(long, { ...options, signal: controller.signal, onData: begun })
    .then((answer) => {
      begun()
      return answer
    })
    .catch(() => undefined)
  await first
  return {
    async end() {
      controller.abort()
      await done
    }
  }
}

/** A row of a refusal: `fill` takes what there is and gives how to give it back, `ask` is refused for `reason`, then a request is served. */
const refusal = (row, { server: which = 'small', reason, fill = async () => [], ask, options = {} }) => ({
  at: ['http'],
  recovery: 'the reason, current, limit and Retry-After; who runs goes on; later a request is served',
  ...row,
  async run(t, shared) {
    const server = shared[which]
    await server.watched(t, async () => {
      const holders = await fill(server)
      try {
        const answer = await ask(server)
        t.sawHttp(answer)
        const { details } = answer.body?.error ?? {}
        t.check(`the reason is ${details?.reason}`, details?.reason === reason)
        t.check('what there is', typeof details?.current === 'number' && typeof details.limit === 'number')
      } finally {
        for (const holder of holders) await holder.end()
      }
      // What was held ends when the server has heard of it.
      let text
      for (let i = 0; i < 100 && !text; i++) {
        text = await server.text({ max_tokens: 4 }, options)
        if (!text) await sleep(10)
      }
      t.check('who may is served', text)
    })
  }
})

const configurations = {
  // One runs and one waits.
  small: { admission: { concurrency: 1, queue_depth: 1, queue_wait_ms: 100 } },
  keys: {
    server: {
      keys: [
        key('plain'),
        key('rate', { requests_per_minute: 1 }),
        key('tokens', { tokens_per_minute: 40 }),
        key('quota', { tokens_total: 5 })
      ]
    }
  },
  tokens: { admission: { concurrency: 4, queue_depth: 0, tokens_in_flight: 100 } },
  memory: { admission: { memory_reserve_bytes: 2 ** 50 } }
}

export default {
  name: 'capacity',
  title: 'Capacity',
  async begin(folder) {
    // Slow, so that what is to hold a place holds it for long enough.
    const settings = { engine: { threads: 1, isa: 'scalar' }, models: [{ id, context_length: 256 }] }
    const names = Object.keys(configurations)
    const servers = await Promise.all(
      names.map((name) => startServer(folder, { ...settings, ...configurations[name] }))
    )
    return Object.fromEntries(names.map((name, i) => [name, servers[i]]))
  },
  async end(shared) {
    await Promise.all(Object.values(shared ?? {}).map((server) => server.stop()))
  },
  rows: [
    refusal(
      {
        id: 'queue-full',
        covers: limits,
        inject: 'a third request where one runs and one may wait',
        code: 'SERVICE_UNAVAILABLE'
      },
      {
        reason: 'queue_full',
        async fill(server) {
          const first = await held(server)
          const waiting = server.complete({ max_tokens: 2 })
          await sleep(30)
          return [first, { end: () => waiting }]
        },
        ask: (server) => server.complete({ max_tokens: 2 })
      }
    ),
    refusal(
      {
        id: 'queue-wait',
        covers: limits,
        inject: 'a request waits for longer than the queue lets it',
        code: 'SERVICE_UNAVAILABLE'
      },
      {
        reason: 'queue_wait',
        fill: async (server) => [await held(server)],
        ask: (server) => server.complete({ max_tokens: 2 })
      }
    ),
    refusal(
      {
        id: 'tokens-in-flight',
        covers: limits,
        inject: 'more tokens are asked for than may be in flight',
        code: 'SERVICE_UNAVAILABLE'
      },
      {
        server: 'tokens',
        reason: 'tokens',
        fill: async (server) => [await held(server)],
        ask: (server) => server.complete({ max_tokens: 100 })
      }
    ),
    {
      id: 'memory-estimate',
      covers: [...limits, 'edge 10', 'S008 insufficient memory'],
      inject: 'the memory that has to stay free is more than the machine has',
      code: 'SERVICE_UNAVAILABLE',
      at: ['http'],
      recovery: 'refused before a KV cache is allocated, with the bytes; the server is alive and says what it holds',
      async run(t, shared) {
        const server = shared.memory
        await server.watched(t, async () => {
          const answer = await server.complete()
          t.sawHttp(answer)
          const { reason, resource_info: info } = answer.body?.error?.details ?? {}
          t.check(`the reason is ${reason}`, reason === 'memory')
          t.check('bytes', info?.unit === 'bytes' && info.required > 0)
          t.check('it lives', (await server.ask('GET', '/health/live')).status === 200)
        })
      }
    },
    refusal(
      {
        id: 'client-rate',
        covers: rates,
        inject: 'a client asks a second time where its key has one request a minute',
        code: 'RATE_LIMITED'
      },
      {
        server: 'keys',
        reason: 'client_rate',
        options: { key: 'plain' },
        async ask(server) {
          await server.complete({ max_tokens: 2 }, { key: 'rate' })
          return server.complete({ max_tokens: 2 }, { key: 'rate' })
        }
      }
    ),
    refusal(
      {
        id: 'client-tokens',
        covers: rates,
        inject: 'a client asks for more tokens than its key has a minute',
        code: 'RATE_LIMITED'
      },
      {
        server: 'keys',
        reason: 'client_tokens',
        options: { key: 'plain' },
        async ask(server) {
          await server.complete({ max_tokens: 30 }, { key: 'tokens' })
          return server.complete({ max_tokens: 30 }, { key: 'tokens' })
        }
      }
    ),
    refusal(
      {
        id: 'client-quota',
        covers: rates,
        inject: 'a client has used all the tokens that its key has',
        code: 'RATE_LIMITED'
      },
      {
        server: 'keys',
        reason: 'client_quota',
        options: { key: 'plain' },
        async ask(server) {
          await server.complete({ max_tokens: 8 }, { key: 'quota' })
          return server.complete({ max_tokens: 8 }, { key: 'quota' })
        }
      }
    )
  ]
}

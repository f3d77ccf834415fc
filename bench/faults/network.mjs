// The network: a real nginx as the archive of a model's experts, stopped, broken and made to refuse, with a proxy that cuts connections between.
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { createEngine } from '../../dist/esm/index.js'
import { writeArchived } from '../../test/archive/archived-model.ts'
import { startFaultyProxy } from '../../test/fixtures/faulty-proxy.ts'
import { nginxMissing, startNginx } from '../../test/fixtures/nginx.ts'
import { onSmallDisk } from './disks.mjs'
import { CannotInject } from './row.mjs'
import { startServer } from './server.mjs'
import { id, request, runArguments, serving } from './serving.mjs'

const covers = ['edge 5', 'S008 recoverable: timeout']
const retries = ['pattern 1']
const circuits = ['pattern 2']
/** Little of the archive, so that a row is short. */
const work = { ...request, maxTokens: 4 }
const quick = {
  retry: { attempts: 3, delaysMs: [10, 20], jitterMs: 5 },
  timeouts: { connectMs: 1000, firstByteMs: 150, betweenBytesMs: 150, totalMs: 10_000 },
  breaker: { failureThreshold: 1000 }
}
/** The same for the command line. */
const environment = (url, folder) => ({
  TIERED_MOE__MODELS__0__ARCHIVE: JSON.stringify({
    url,
    cold_folder: folder,
    retry: { attempts: 2, delays_ms: [1], jitter_ms: 0 },
    timeouts: { connect_ms: 1000, first_byte_ms: 300, between_bytes_ms: 300 }
  })
})

/** Runs `use` with an engine whose rare experts are at `url`; `events` are those of its archive. */
async function withArchive(t, { part }, url, use, archive = {}) {
  const events = []
  const engine = await createEngine({
    threads: 1,
    maxBatchTokens: 32,
    onEvent: ({ event, fields }) => events.push({ event, fields })
  })
  try {
    const coldFolder = archive.coldFolder ?? join(t.folder, 'cold')
    await engine.loadModel({ id, model: part, contextLength: 64, archive: { ...quick, url, coldFolder, ...archive } })
    await use(engine, events)
  } finally {
    await engine.dispose()
  }
}

/** A live server of that model, for as long as `use` takes. */
async function withServer(t, { part }, url, breaker, use) {
  const archive = {
    url,
    cold_folder: join(t.folder, 'served'),
    retry: { attempts: 2, delays_ms: [1], jitter_ms: 0 },
    breaker
  }
  const server = await startServer(t.folder, { models: [{ id, model: part, context_length: 64, archive }] })
  try {
    await use(server)
  } finally {
    await server.stop()
  }
}

/** A row of a fault that goes on until it is ended: then the same request has its text. */
const lasting = (row, { address, begin, end = () => {}, details, archive }) => ({
  at: ['library', 'cli'],
  recovery: 'the error comes after the last attempt; once the server is well the same request has its text',
  ...row,
  async run(t, shared) {
    const url = address(shared)
    if (row.at?.includes('http')) {
      await withServer(t, shared, url, { failure_threshold: 1000 }, async (server) => {
        await begin?.(shared)
        await server.watched(t, async () => t.sawHttp(await server.complete({ max_tokens: 4 })))
        await end(shared)
        t.check('the server gives the text', (await server.text({ max_tokens: 4 })) === shared.text)
      })
    }
    await withArchive(
      t,
      shared,
      url,
      async (engine) => {
        await begin?.(shared)
        try {
          await t.caught(engine.generate(work), details)
          if (row.at?.includes('cli') ?? true)
            await t.cli(['run', shared.part, ...runArguments], {
              env: { ...environment(url, join(t.folder, 'cli')), TIERED_MOE__MODELS__0__MODEL: shared.part }
            })
        } finally {
          await end(shared)
        }
        if (row.permanent)
          t.check(
            'experts that are here serve',
            (await engine.generate({ ...work, tierSet: 'core' })).tokens.length > 0
          )
        else t.check('the text', (await engine.generate(work)).text === shared.text)
      },
      archive
    )
  }
})

/** A row of a fault that a retry gets over: no error, the text, and something that shows that it happened. */
const passing = (row, url, { begin, shows }) => ({
  at: ['library'],
  recovery: 'no error: it is retried, and the text is the same',
  ...row,
  async run(t, shared) {
    await withArchive(t, shared, url(shared), async (engine, events) => {
      await begin?.(shared, engine)
      const { text } = await engine.generate(work)
      t.seen.library = '(none)'
      t.check('the text is the same', text === shared.text)
      const fetched = events.filter(({ event }) => event === 'archive_fetched').map(({ fields }) => fields)
      t.check('it did happen', shows(fetched, shared))
    })
  }
})

/** Inverts the server's copies of the experts; a second time they are right again. */
function lie({ nginx }) {
  const folder = join(nginx.files, 'experts/rare')
  for (const name of readdirSync(folder)) {
    const path = join(folder, name)
    writeFileSync(
      path,
      readFileSync(path).map((byte) => byte ^ 255)
    )
  }
}

/** While this file is there, nginx answers so (test/fixtures/nginx.ts). */
const flag = (nginx, name) => {
  const path = join(nginx.files, name)
  return { set: () => writeFileSync(path, ''), clear: () => rmSync(path, { force: true }) }
}

/** Takes the flag away once the server has answered so. */
async function clearAfter(nginx, name, status) {
  const { set, clear } = flag(nginx, name)
  await nginx.requests()
  set()
  void (async () => {
    for (let i = 0; i < 1000; i++) {
      await sleep(5)
      if ((await nginx.requests()).some((answer) => answer.status === status)) break
    }
    clear()
  })()
}

const nginxUrl = ({ nginx }) => nginx.url
const proxyUrl = ({ proxy }) => proxy.url
/** Every connection from now on breaks so. */
const breaks = (kind, after) => ({
  begin: ({ proxy }) => {
    proxy.always = { kind, after }
  },
  end: ({ proxy }) => {
    proxy.always = undefined
  }
})
/** The next connections break so. */
const breaksOnce = (...faults) => ({
  begin: ({ proxy }) => {
    proxy.faults = faults
  }
})

export default {
  name: 'network',
  title: 'Network',
  async begin(folder) {
    if (nginxMissing) throw new CannotInject(nginxMissing)
    const nginx = await startNginx()
    const [whole, part] = [join(folder, 'whole'), join(folder, 'part')]
    await writeArchived(nginx, whole, part)
    const { engine } = await serving({}, { model: whole })
    const { text } = await engine.generate(work)
    await engine.dispose()
    return { nginx, proxy: await startFaultyProxy(nginx.port), part, text }
  },
  async end(shared) {
    await shared?.proxy.close()
    await shared?.nginx.stop()
  },
  rows: [
    lasting(
      {
        id: 'server-dead',
        covers: [...covers, ...retries],
        inject: 'the web server is stopped',
        code: 'NETWORK_PARTITION',
        at: ['library', 'cli', 'http']
      },
      {
        address: nginxUrl,
        begin: ({ nginx }) => nginx.stop(),
        end: ({ nginx }) => nginx.start(),
        details: { attempts: 3, retryCount: 2 }
      }
    ),
    lasting(
      {
        id: 'stall',
        full: true,
        covers: [...covers, 'pattern 7'],
        inject: 'connections stand, and no byte comes',
        code: 'NETWORK_PARTITION'
      },
      { address: proxyUrl, ...breaks('stall', 0) }
    ),
    lasting(
      {
        id: 'reset',
        covers,
        inject: 'every connection is reset before its first byte',
        code: 'NETWORK_PARTITION',
        at: ['library']
      },
      { address: proxyUrl, ...breaks('reset', 0) }
    ),
    passing(
      {
        id: 'cut-mid-blob',
        covers: [...covers, ...retries],
        inject: 'connections are reset and closed in the middle of an expert'
      },
      proxyUrl,
      {
        ...breaksOnce({ kind: 'reset', after: 20_000 }, { kind: 'close', after: 10_000 }),
        shows: (fetched) => fetched.some(({ resumed }) => resumed > 0)
      }
    ),
    passing(
      { id: 'error-then-well', covers: [...covers, ...retries], inject: 'the server answers 500 at first' },
      ({ nginx }) => `${nginx.url}/down`,
      {
        begin: ({ nginx }) => clearAfter(nginx, 'down', 500),
        shows: (fetched) => fetched.some(({ attempts }) => attempts > 1)
      }
    ),
    passing(
      {
        id: 'retry-after',
        covers: [...covers, ...retries, 'edge 15'],
        inject: 'the server answers 429 with Retry-After: 1 at first'
      },
      ({ nginx }) => `${nginx.url}/limited`,
      {
        begin: ({ nginx }) => clearAfter(nginx, 'limited', 429),
        shows: (fetched) => fetched.some(({ attempts }) => attempts > 1)
      }
    ),
    passing(
      {
        id: 'wrong-bytes-once',
        covers: ['edge 2', 'edge 5', 'S008 recoverable: cache miss'],
        inject: 'a byte of an expert changes on its way'
      },
      proxyUrl,
      {
        ...breaksOnce({ kind: 'corrupt', after: 20_000 }),
        shows: (fetched) => fetched.some(({ restarted }) => restarted > 0)
      }
    ),
    lasting(
      {
        id: 'wrong-bytes',
        covers: ['edge 2', 'edge 5'],
        inject: 'the server has other bytes than the manifest says',
        code: 'EXPERT_CORRUPTED',
        at: ['library'],
        recovery:
          'fetched again from the beginning twice, nothing wrong is kept; once the server has the right ones the text comes'
      },
      { address: nginxUrl, begin: lie, end: lie }
    ),
    lasting(
      {
        id: 'refused',
        covers: ['edge 5', 'edge 14'],
        inject: 'a signature in the address that the server does not take (403)',
        code: 'ARCHIVE_REFUSED',
        permanent: true,
        recovery: 'not retried, the signature is in no error; experts that are here serve'
      },
      { address: ({ nginx }) => `${nginx.url}/signed?signature=wrong`, details: { status: 403 } }
    ),
    lasting(
      {
        id: 'redirect-circle',
        full: true,
        covers: ['edge 5'],
        inject: 'the server redirects to itself',
        code: 'ARCHIVE_REFUSED',
        permanent: true,
        recovery: 'followed five times at most; experts that are here serve'
      },
      { address: ({ nginx }) => `${nginx.url}/circle` }
    ),
    {
      id: 'circuit',
      covers: ['edge 5', ...circuits],
      inject: 'the server stays dead over two failed experts in a row',
      code: 'CIRCUIT_BREAKER_OPEN',
      at: ['library', 'http'],
      recovery: 'nobody waits for it while the circuit is open; after its cooldown one success closes it',
      async run(t, shared) {
        await withServer(t, shared, shared.nginx.url, { failure_threshold: 2, cooldown_ms: 2000 }, async (server) => {
          await shared.nginx.stop()
          let answer
          for (let i = 0; i < 4 && answer?.body?.error?.code !== 'CIRCUIT_BREAKER_OPEN'; i++)
            answer = await server.complete({ max_tokens: 4 })
          t.sawHttp(answer)
          await shared.nginx.start()
        })
        await withArchive(
          t,
          shared,
          shared.nginx.url,
          async (engine, events) => {
            await shared.nginx.stop()
            let last
            try {
              for (let i = 0; i < 4 && last?.code !== 'CIRCUIT_BREAKER_OPEN'; i++)
                last = await engine.generate(work).catch((error) => error)
              t.saw(last, { failureThreshold: 2, state: 'OPEN' })
            } finally {
              await shared.nginx.start()
            }
            let text
            for (let i = 0; i < 100 && text === undefined; i++) {
              text = await engine.generate(work).then(
                ({ text }) => text,
                () => undefined
              )
              if (text === undefined) await sleep(20)
            }
            t.check('the text', text === shared.text)
            await sleep(10)
            const reasons = events.filter(({ event }) => event === 'archive_circuit').map(({ fields }) => fields.next)
            t.check(`opened and closed: ${reasons}`, reasons[0] === 'OPEN' && reasons.at(-1) === 'CLOSED')
          },
          { retry: { attempts: 1, delaysMs: [1] }, breaker: { failureThreshold: 2, cooldownMs: 100 } }
        )
      }
    },
    {
      id: 'cold-folder-full',
      covers: ['edge 9', 'S008 recoverable: resource'],
      inject: 'the disk of the cold folder (a tmpfs of 256 KiB) has no room for an expert',
      code: 'FILE_WRITE_FAILED',
      at: ['library'],
      recovery: 'experts that are here serve; with a folder that has room the text comes',
      run: (t, shared) =>
        onSmallDisk('256k', async (disk) => {
          await withArchive(
            t,
            shared,
            shared.nginx.url,
            async (engine) => {
              await t.caught(engine.generate(work))
              t.check('what is here serves', (await engine.generate({ ...work, tierSet: 'core' })).tokens.length > 0)
            },
            { coldFolder: join(disk, 'cold') }
          )
          await withArchive(t, shared, shared.nginx.url, async (engine) =>
            t.check('the text', (await engine.generate(work)).text === shared.text)
          )
        })
    }
  ]
}

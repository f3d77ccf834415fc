// Downloads: what breaks off goes on, what is wrong is not kept, and what cannot work is said at once.
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pullFile } from '../../dist/esm/index.js'
import { startFaultyProxy } from '../../test/fixtures/faulty-proxy.ts'
import { nginxMissing, startNginx } from '../../test/fixtures/nginx.ts'
import { onSmallDisk } from './disks.mjs'
import { CannotInject } from './row.mjs'
import { embedded } from './serving.mjs'

const network = ['edge 5', 'pattern 1']
const quick = {
  retry: { attempts: 3, delaysMs: [10, 20], jitterMs: 5 },
  timeouts: { connectMs: 1000, firstByteMs: 200, betweenBytesMs: 200 }
}
/** The same for the command line. */
const environment = {
  TIERED_MOE__NETWORK__RETRY: JSON.stringify({ attempts: 2, delays_ms: [1], jitter_ms: 0 })
}
const same = (path) => existsSync(path) && readFileSync(path).equals(readFileSync(embedded))

/** A row of a fault that a download gets over: the whole file is there, and `shows` that it happened. */
const passing = (row, begin, shows) => ({
  at: ['library'],
  recovery: 'no error: it goes on where it broke off, and every byte is right',
  ...row,
  async run(t, shared) {
    const to = join(t.folder, 'model.gguf')
    const url = await begin(shared)
    const result = await pullFile({ url, to, sha256: shared.sha256 }, quick)
    t.seen.library = '(none)'
    t.check('every byte is right', same(to))
    t.check(`it did happen: ${JSON.stringify(result)}`, shows(result))
  }
})

/** A row of a fault that goes on until it is ended: then the same download goes through. */
const lasting = (row, { begin, end = () => {}, to = (folder) => join(folder, 'model.gguf'), kept = false }) => ({
  at: ['library', 'cli'],
  recovery: 'no file is there that is not whole; without the fault the same download goes through',
  ...row,
  async run(t, shared) {
    const [path, other] = [to(t.folder), to(join(t.folder, 'cli'))]
    const url = await begin(shared)
    try {
      await t.caught(pullFile({ url, to: path, sha256: shared.sha256 }, quick))
      await t.cli(['pull', url, '--to', other, '--sha256', shared.sha256], { env: environment })
    } finally {
      await end(shared)
    }
    t.check('no half of a file', !existsSync(path) && !existsSync(other))
    t.check(`a part is ${kept ? '' : 'not '}kept`, existsSync(`${path}.part`) === kept)
    await pullFile({ url: `${shared.nginx.url}/model.gguf`, to: path, sha256: shared.sha256 }, quick)
    t.check('every byte is right', same(path))
  }
})

export default {
  name: 'pull',
  title: 'Downloads',
  async begin() {
    if (nginxMissing) throw new CannotInject(nginxMissing)
    const nginx = await startNginx()
    const bytes = readFileSync(embedded)
    const served = join(nginx.files, 'model.gguf')
    writeFileSync(served, bytes, { mode: 0o644 })
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    return { nginx, served, proxy: await startFaultyProxy(nginx.port), sha256 }
  },
  async end(shared) {
    await shared?.proxy.close()
    await shared?.nginx.stop()
  },
  rows: [
    passing(
      { id: 'download-cut', covers: network, inject: 'the connection breaks in the middle of the file, twice' },
      ({ proxy }) => {
        proxy.faults = [
          { kind: 'reset', after: 300_000 },
          { kind: 'close', after: 200_000 }
        ]
        return `${proxy.url}/model.gguf`
      },
      ({ resumed }) => resumed > 0
    ),
    passing(
      { id: 'download-corrupt', covers: ['edge 2'], inject: 'a byte of the file changes on its way' },
      ({ proxy }) => {
        proxy.faults = [{ kind: 'corrupt', after: 300_000 }]
        return `${proxy.url}/model.gguf`
      },
      ({ restarted }) => restarted > 0
    ),
    lasting(
      { id: 'download-server-dead', covers: network, inject: 'the server is stopped', code: 'NETWORK_PARTITION' },
      {
        begin: async ({ nginx }) => {
          await nginx.stop()
          return `${nginx.url}/model.gguf`
        },
        end: ({ nginx }) => nginx.start()
      }
    ),
    lasting(
      {
        id: 'download-lies',
        covers: ['edge 2'],
        inject: 'the server has other bytes than the sum that was asked for',
        code: 'MODEL_CORRUPTED',
        recovery:
          'fetched again from the beginning twice, and nothing of it is kept; once the server is right the same download goes through'
      },
      {
        begin: ({ nginx, served }) => {
          writeFileSync(
            served,
            readFileSync(served).map((byte, i) => (i === 5000 ? byte ^ 1 : byte))
          )
          return `${nginx.url}/model.gguf`
        },
        end: ({ served }) => writeFileSync(served, readFileSync(embedded))
      }
    ),
    lasting(
      {
        id: 'signature-expired',
        covers: ['edge 14'],
        inject: 'the signature of the address is not taken any more (403)',
        code: 'AUTH_TOKEN_EXPIRED',
        recovery: 'not retried; with a good address the same download goes through'
      },
      { begin: ({ nginx }) => `${nginx.url}/signed/model.gguf?signature=old` }
    ),
    {
      id: 'disk-full-download',
      covers: ['edge 9', 'pattern 5'],
      inject: 'a file is downloaded to a disk without room for it',
      code: 'RESOURCE_DISK_EXHAUSTED',
      at: ['library', 'cli'],
      recovery: 'refused before a byte is written, with the bytes; on a disk with room it goes through',
      run: (t, { nginx, sha256 }) =>
        onSmallDisk('256k', async (disk) => {
          const url = `${nginx.url}/model.gguf`
          await t.caught(pullFile({ url, to: join(disk, 'model.gguf'), sha256 }, quick))
          t.check('nothing was written', readdirSync(disk).length === 0)
          await t.cli(['pull', url, '--to', join(disk, 'model.gguf')], { env: environment })
          const to = join(t.folder, 'model.gguf')
          await t.fine(['pull', url, '--to', to, '--sha256', sha256], { env: environment })
          t.check('every byte is right', same(to))
          rmSync(to)
        })
    }
  ]
}

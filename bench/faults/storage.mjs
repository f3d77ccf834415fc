// What lies on disk beside models: journals, audit logs, cold folders, locked by another process, damaged, or of a later version.
import { spawn } from 'node:child_process'
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createEngine } from '../../dist/esm/index.js'
import { encodeRecord } from '../../dist/esm/journal/frame.js'
import { root } from '../harness.mjs'
import { id, request, runArguments } from './serving.mjs'

const small = { threads: 1, maxBatchTokens: 32 }
const corrupted = 'S008 corrupted checkpoint'

/** A process with an engine that has this journal, until it is killed. */
async function holder(journal) {
  const text = `
    import { createEngine } from ${JSON.stringify(join(root, 'dist/esm/index.js'))}
    await createEngine({ threads: 1, journal: ${JSON.stringify(journal)} })
    process.stdout.write('ready')
    setInterval(() => {}, 1000)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', text], { stdio: ['ignore', 'pipe', 'inherit'] })
  await new Promise((resolve) => child.stdout.once('data', resolve))
  return child
}

/** A journal with one request that has ended. */
async function writeJournal(journal) {
  const engine = await createEngine({ ...small, journal })
  await engine.loadModel({ id, contextLength: 64 })
  const { text } = await engine.generate({ ...request, maxTokens: 8, requestId: 'first' })
  await engine.dispose()
  return text
}

const environment = (journal) => ({ TIERED_MOE__ENGINE__JOURNAL: journal })

export default {
  name: 'storage',
  title: 'Journals and logs',
  rows: [
    {
      id: 'journal-locked',
      covers: ['edge 8', 'S008 resource: fatal where essential'],
      inject: 'another process has the journal open',
      code: 'JOURNAL_LOCKED',
      at: ['library', 'cli'],
      recovery: 'its process is named; once that is killed the journal opens',
      async run(t) {
        const journal = join(t.folder, 'journal')
        const child = await holder(journal)
        const ended = new Promise((resolve) => child.on('close', resolve))
        await t.caught(createEngine({ ...small, journal }), { pid: child.pid })
        await t.cli(['run', ...runArguments], { env: environment(journal) })
        child.kill('SIGKILL')
        await ended
        const engine = await createEngine({ ...small, journal })
        t.check('it opens', engine.state !== 'closed')
        await engine.dispose()
      }
    },
    {
      id: 'journal-damaged',
      covers: [corrupted, 'edge 7'],
      inject: 'a bit in the middle of a journal',
      code: 'JOURNAL_CORRUPTED',
      at: ['library', 'cli'],
      recovery: 'nothing is changed by the refusal; onDamage: salvage reads what is sound',
      async run(t) {
        const journal = join(t.folder, 'journal')
        await writeJournal(journal)
        const segment = join(journal, '00000001.journal')
        const bytes = readFileSync(segment)
        const at = bytes.indexOf('"accepted"')
        bytes[at + 3] ^= 1
        writeFileSync(segment, bytes)
        await t.caught(createEngine({ ...small, journal }))
        await t.cli(['run', ...runArguments], { env: environment(journal) })
        t.check('nothing changed', readFileSync(segment).equals(bytes))
        const engine = await createEngine({ ...small, journal: { path: journal, onDamage: 'salvage' } })
        t.check('salvaged', engine.state !== 'closed')
        await engine.dispose()
      }
    },
    {
      id: 'journal-version',
      covers: ['S008 version mismatch', 'edge 6'],
      inject: 'a journal of a later version',
      code: 'JOURNAL_VERSION_UNSUPPORTED',
      at: ['library'],
      recovery: 'nothing is written to it; another folder serves',
      async run(t) {
        const journal = join(t.folder, 'journal')
        await writeJournal(journal)
        const segment = join(journal, '00000001.journal')
        const bytes = encodeRecord({ type: 'segment', format: 2, number: 1, compacted: false })
        writeFileSync(segment, bytes)
        await t.caught(createEngine({ ...small, journal }))
        t.check('nothing was written to it', readFileSync(segment).equals(bytes))
        t.check('another folder serves', (await writeJournal(join(t.folder, 'other'))).length > 0)
      }
    },
    {
      id: 'audit-changed',
      covers: [corrupted, 'S008 invariant violated'],
      inject: 'a line of an audit log is changed',
      code: 'AUDIT_LOG_INVALID',
      at: ['library', 'cli'],
      recovery: 'the line is named, nothing is appended; the log as it was holds',
      async run(t) {
        const [audit, copy] = [join(t.folder, 'audit.log'), join(t.folder, 'copy.log')]
        await t.fine(['run', ...runArguments, '--audit', audit])
        cpSync(audit, copy)
        writeFileSync(audit, readFileSync(audit, 'utf8').replace('"layers":4', '"layers":5'))
        await t.caught(createEngine({ ...small, audit }))
        await t.cli(['audit', 'verify', audit])
        const { code } = await t.fine(['audit', 'verify', copy])
        t.check('the first one holds', code === 0)
      }
    }
  ]
}

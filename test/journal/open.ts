/** Opens journals for the tests of this folder, with the addon's own lock. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { JournalSettings } from '../../lib/journal/index.js'
import { Journal } from '../../lib/journal/index.js'
import { native } from '../../lib/native.js'
import { builtUrl } from '../fixtures/package.js'

export const identity = { bytes: 10, modifiedNs: '1', sha256: 'aa', sampled: false }
export const usage = (completionTokens: number) => ({
  promptTokens: 2,
  cachedTokens: 0,
  completionTokens,
  totalTokens: 2 + completionTokens
})

export async function open(path: string, settings: Partial<JournalSettings> = {}): Promise<Journal> {
  const defaults = { syncMs: 5, segmentBytes: 1 << 20, retentionMs: 3_600_000, onDamage: 'refuse' as const }
  const journal = await Journal.open({ path, ...defaults, ...settings }, (fd) => native().tryLockFile(fd))
  journal.started({ version: '1', node: 'v20' })
  return journal
}

export const loadModel = (journal: Journal): number =>
  journal.modelLoaded({
    id: 'tiny',
    path: '/tiny.gguf',
    identity,
    options: { kvType: 'f16' },
    contextLength: 512,
    routingSeed: '00',
    tiersSha256: ''
  })

/** Names of the segments in a folder. */
export const segmentsIn = (folder: string): string[] =>
  readdirSync(folder)
    .filter((name) => name.endsWith('.journal'))
    .sort()
export const bytesOf = (folder: string, name: string): Buffer => readFileSync(join(folder, name))

/** A program of its own that opens the journal in its last argument, as `journal`, and goes on with `body`: its path and its arguments. */
export function program(folder: string, body: string, syncMs = 1): string[] {
  const script = join(folder, '..', 'program.mjs')
  writeFileSync(
    script,
    `const { Journal } = await import(process.argv[2])
    const { native } = await import(process.argv[3])
    const settings = { path: process.argv[4], syncMs: ${syncMs}, segmentBytes: 3000, retentionMs: 1e6, onDamage: 'refuse' }
    const journal = await Journal.open(settings, (fd) => native().tryLockFile(fd))
    ${body}`
  )
  return [script, builtUrl('journal/index.js'), builtUrl('native.js'), folder]
}

/** Opens journals for the tests of this folder, with the addon's own lock. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { JournalSettings } from '../../lib/journal/index.js'
import { Journal } from '../../lib/journal/index.js'
import { native } from '../../lib/native.js'

export const identity = { bytes: 10, modifiedNs: '1', sha256: 'aa', sampled: false }
export const usage = (completionTokens: number) => ({
  promptTokens: 2,
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

/** What the tests of checkpoints share: the addon, the opener, small models, and manifests that are changed by hand. */
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type * as Open from '../../lib/checkpoint/open.js'
import type { native as Native } from '../../lib/native.js'
import { type MoeModelOptions, writeMoeModel } from '../fixtures/moe-model.js'
import { built } from '../fixtures/package.js'

const { native } = (await built('native.js')) as { native: typeof Native }
export const addon = native()
export const { openCheckpoint } = (await built('checkpoint/open.js')) as typeof Open

/** A model of a few kilobytes. */
export const smallModel = (path: string, options: MoeModelOptions = {}): string =>
  writeMoeModel(path, { vocab: 260, layers: 2, experts: 4, type: 'Q8_0', ...options })

/** Every file below a folder with the hash of its bytes. */
export function hashes(folder: string): Record<string, string> {
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort()
  const files = names.filter((name) => statSync(join(folder, name)).isFile())
  return Object.fromEntries(
    files.map((name) => [
      name,
      createHash('sha256')
        .update(readFileSync(join(folder, name)))
        .digest('hex')
    ])
  )
}

// biome-ignore lint/suspicious/noExplicitAny: manifests are made wrong on purpose
export type AnyManifest = any

/** The manifest's text with a checksum of its own, as docs/checkpoint.md describes it: written without the library. */
export function sealed(manifest: AnyManifest): string {
  const { checksum: _, ...fields } = manifest
  const zeros = '0'.repeat(64)
  const text = JSON.stringify({ checksum: zeros, ...fields })
  return text.replace(zeros, createHash('sha256').update(text).digest('hex'))
}

export const manifestOf = (folder: string): AnyManifest =>
  JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8'))

/** Changes a folder's manifest and seals it. */
export function edit(folder: string, change: (manifest: AnyManifest) => void): void {
  const manifest = manifestOf(folder)
  change(manifest)
  writeFileSync(join(folder, 'manifest.json'), sealed(manifest))
}

/** Flips one bit of a file. */
export function flip(path: string, at: number): void {
  const bytes = readFileSync(path)
  bytes[at]! ^= 1 << (at % 8)
  writeFileSync(path, bytes)
}

/** File systems of a test's own: small ones to fill, read-only ones to be refused by. */
import { spawnSync } from 'node:child_process'
import { appendFileSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

interface Mounting {
  teardown(end: () => void): void
  pass(message: string, extra: { skip: boolean }): unknown
}

/** A folder that the test's end unmounts and removes. */
export function mountPoint(t: Mounting): string {
  const folder = mkdtempSync(join(tmpdir(), 'tiered-moe-mount-'))
  t.teardown(() => {
    // Lazily: a test that failed may have files open there.
    spawnSync('umount', ['-l', folder])
    rmSync(folder, { recursive: true, force: true })
  })
  return folder
}

const run = (command: string, ...args: string[]): boolean => spawnSync(command, args).status === 0

/** A disk of `size` (as mount writes it) until the test ends; where none can be mounted the test is a reported skip, and this undefined. */
export function smallDisk(t: Mounting, size: string): string | undefined {
  const folder = mountPoint(t)
  if (run('mount', '-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', folder)) return folder
  t.pass('no tmpfs can be mounted here', { skip: true })
  return undefined
}

/** Takes what a disk has left, but for less than a page of each file on it; what is given back frees it again. */
export function fillDisk(disk: string): () => void {
  const ballast = join(disk, 'ballast')
  try {
    for (;;) appendFileSync(ballast, Buffer.alloc(256))
  } catch {}
  return () => rmSync(ballast)
}

/** Whether the folder, with what it holds, could be made read-only. */
export const makeReadOnly = (folder: string): boolean =>
  run('mount', '--bind', folder, folder) && run('mount', '-o', 'remount,bind,ro', folder)

/** File systems of a test's own: small ones to fill, read-only ones to be refused by. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

interface Teardown {
  teardown(end: () => void): void
}

/** A folder that the test's end unmounts and removes. */
export function mountPoint(t: Teardown): string {
  const folder = mkdtempSync(join(tmpdir(), 'tiered-moe-mount-'))
  t.teardown(() => {
    // Lazily: a test that failed may have files open there.
    spawnSync('umount', ['-l', folder])
    rmSync(folder, { recursive: true, force: true })
  })
  return folder
}

const run = (command: string, ...args: string[]): boolean => spawnSync(command, args).status === 0

/** Whether a tmpfs of `size` (as mount writes it) could be mounted there. */
export const mountTmpfs = (folder: string, size: string): boolean =>
  run('mount', '-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', folder)

/** Whether the folder, with what it holds, could be made read-only. */
export const makeReadOnly = (folder: string): boolean =>
  run('mount', '--bind', folder, folder) && run('mount', '-o', 'remount,bind,ro', folder)

// Small disks of a row's own, as test/journal/mounts.ts mounts them.
import { fillDisk, smallDisk } from '../../test/journal/mounts.ts'
import { CannotInject } from './row.mjs'

export { fillDisk }

/** Runs `use` with a disk of that size, and takes it away after it. */
export async function onSmallDisk(size, use) {
  const ends = []
  const disk = smallDisk({ teardown: (end) => ends.push(end), pass() {} }, size)
  try {
    if (!disk) throw new CannotInject('no tmpfs can be mounted here (root)')
    await use(disk)
  } finally {
    for (const end of ends) end()
  }
}

/** `tiered-moe verify`: reads a whole checkpoint and says what is damaged. */
import type { Command } from 'commander'
import { verifyCheckpoint } from '../checkpoint/index.js'
import { createError } from '../errors/index.js'
import { filePath } from './arguments.js'
import { formatBytes, formatMilliseconds } from './format.js'
import type { Session } from './session.js'

export function addVerify(program: Command, session: Session): void {
  program
    .command('verify')
    .description('compare every byte of a checkpoint with its manifest')
    .argument('<folder>', 'the folder of a tiered checkpoint', filePath)
    .option('--json', 'one JSON object')
    .action(async (folder: string, { json }: { json?: boolean }) => {
      const started = performance.now()
      const report = await verifyCheckpoint(folder, {
        signal: session.signal,
        onProgress: (progress) => session.progress('verifying', progress)
      })
      const milliseconds = performance.now() - started
      const { files, blobs, bytes, absent, archiveUrl } = report
      const damage = report.damage.map(({ error, ...rest }) => ({ code: error.code, ...rest }))
      if (json) session.json({ folder, files, blobs, bytes, absent, archiveUrl, damage, milliseconds })
      for (const { code, message } of json ? [] : damage) session.write(`${code}  ${message}\n`)
      const [first] = report.damage
      if (first) {
        const { error } = report.damage.find(({ error }) => error.code === 'MODEL_CORRUPTED') ?? first
        const { code, message, details } = error
        const others = damage.length === 1 ? '' : ` (and ${damage.length - 1} more)`
        throw createError(code as 'MODEL_CORRUPTED', `${folder} is damaged: ${message}${others}`, details)
      }
      if (json) return
      const size = `${files} files, ${blobs} experts, ${formatBytes(bytes)}`
      if (absent.length > 0) {
        const where = archiveUrl === undefined ? '' : `, at ${archiveUrl}`
        session.write(`${absent.length} files are in the archive only${where}\n`)
      }
      session.write(`${folder}: ${size}, all as the manifest states, ${formatMilliseconds(milliseconds)}\n`)
    })
}

/** `tiered-moe audit verify`: whether an audit log is as it was written. */
import type { Command } from 'commander'
import { createError } from '../errors/index.js'
import { verifyAuditLog } from '../telemetry/audit-verify.js'
import { filePath } from './arguments.js'
import type { Session } from './session.js'

interface VerifyOptions {
  open?: boolean
  seal?: string
  json?: boolean
}

export function addAudit(program: Command, session: Session): void {
  const audit = program.command('audit').description('audit logs')
  audit
    .command('verify')
    .description('check the chains of hashes of an audit log, from its first line to its last')
    .argument('<file>', 'the audit log', filePath)
    .option('--open', 'the last run may still be running, or have crashed')
    .option('--seal <hash>', 'the seal that was noted earlier, of the last line that there must be at least')
    .option('--json', 'the result as one JSON object')
    .action(async (path: string, options: VerifyOptions) => {
      const result = await verifyAuditLog(path, options.seal)
      const { records, runs, hash, seal, closed, tornBytes } = result
      if (!options.open && (!closed || tornBytes > 0)) {
        const torn = tornBytes > 0 ? `, and ${tornBytes} bytes of a torn line follow` : ''
        const reason = `is the last one, and run ${runs} was not closed${torn}: it still runs, it crashed, or the end was cut off`
        throw createError('AUDIT_LOG_INVALID', `${path}: line ${records} ${reason}`, {
          path,
          line: records,
          reason,
          suggestedAction: 'If a run is under way or has crashed, give --open; if not, records are missing at the end.'
        })
      }
      if (options.json) session.json(result)
      else session.write(`${path}: ${records} records of ${runs} runs hold\n  last run: ${hash}\n  file:     ${seal}\n`)
    })
}

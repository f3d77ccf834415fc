/** `tiered-moe pull`: brings a file from a web server, whole and checked. */
import { statSync } from 'node:fs'
import { basename, join } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import { describeUrl } from '../download/failures.js'
import { fileNameOf, pullFile } from '../download/pull.js'
import { loadRuntimeConfig } from '../index.js'
import { filePath, given, several } from './arguments.js'
import { formatBytes, formatMilliseconds } from './format.js'
import type { Session } from './session.js'

interface PullChoices {
  to?: string
  sha256?: string
  header?: string[]
  replace?: boolean
  config?: string
  json?: boolean
}

/** `Name: value` of each. */
function headersOf(lines: readonly string[] = []): Record<string, string> {
  return Object.fromEntries(
    lines.map((line) => {
      const at = line.indexOf(':')
      return [line.slice(0, at).trim(), line.slice(at + 1).trim()]
    })
  )
}

function header(text: string, before: string[] | undefined): string[] {
  if (!/^[^:\s]+:/.test(text)) throw new InvalidArgumentError("Allowed is 'Name: value'.")
  return several(text, before)
}

/** The path of the file: a folder gets one of the address's name. */
function targetOf(url: string, to: string | undefined, folder: string | undefined): string {
  if (to === undefined) return join(folder ?? '.', fileNameOf(url))
  return /[/\\]$/.test(to) || isFolder(to) ? join(to, fileNameOf(url)) : to
}

function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory()
  } catch {
    // What cannot be looked at cannot be written either: that is told then.
    return false
  }
}

export function addPull(program: Command, session: Session): void {
  program
    .command('pull')
    .description('download a file: goes on with what an earlier call left, checks its sum, and puts it in place whole')
    .argument('<url>', 'http or https; a query (a signature) is sent and never noted')
    .option('--to <path>', "the file, or a folder for it (default: the address's last part, in this folder)", filePath)
    .option('--sha256 <hex>', 'what its bytes must have; others are deleted and fetched again, twice')
    .option('--header <line>', "'Name: value', sent to that host alone; can be given several times", header)
    .option('--replace', 'take the place of a file of that name')
    .option(
      '--config <file>',
      'its sections download and network (default: tiered-moe.yaml in this folder, if there)',
      filePath
    )
    .option('--json', 'one JSON object')
    .action(async (url: string, { to, sha256, header: lines, replace, config: path, json }: PullChoices) => {
      const { config } = await loadRuntimeConfig(given({ path }))
      const { download, network } = config
      const target = targetOf(url, to, download.folder)
      const name = basename(target)
      const started = performance.now()
      let from: number | undefined
      const result = await pullFile(
        { url, to: target, headers: headersOf(lines), ...given({ sha256, replace }) },
        {
          signal: session.signal,
          retry: network.retry,
          timeouts: download.timeouts,
          onProgress: (progress) => {
            from ??= progress.bytesDone
            const rate = ((progress.bytesDone - from) * 1000) / Math.max(1, performance.now() - started)
            session.progress(`${name} ${formatBytes(rate)}/s`, progress)
          },
          onEvent: ({ message }) => session.note(`${message}\n`)
        }
      )
      const milliseconds = performance.now() - started
      if (json) return session.json({ url: describeUrl(new URL(url)), ...result, milliseconds })
      const how = result.attempts === 0 ? 'was there' : formatMilliseconds(milliseconds)
      const again = [
        result.resumed > 0 && `gone on with ${result.resumed} times`,
        result.restarted > 0 && `begun again ${result.restarted} times`
      ].filter(Boolean)
      session.write(
        `${result.path}: ${[formatBytes(result.bytes), how, ...again].join(', ')}\nsha256  ${result.sha256}\n`
      )
    })
}

/** Runs the built command line as a user does, and collects what it said. */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'

export const MAIN = resolve('dist/esm/cli/main.js')

/** Why commands that need the built package cannot run here, or false. */
export const notBuilt = existsSync(MAIN) ? false : 'the package is not built: npm run build'

export interface Outcome {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

export interface CommandOptions {
  /** Standard input; undefined leaves it open. */
  input?: string | undefined
  env?: Record<string, string>
  /** Sees the process and its output up to now each time that some arrives. */
  onOutput?: (child: ChildProcess, stdout: string) => void
  /** Called at once. */
  onStart?: (child: ChildProcess) => void
  /** Called when `ready` comes on standard error. */
  onReady?: (child: ChildProcess) => void
}

export function command(args: string[], options: CommandOptions = {}): Promise<Outcome> {
  const { env = {}, onOutput, onStart, onReady } = options
  const input = 'input' in options ? options.input : ''
  return new Promise((done, fail) => {
    const child = spawn(process.execPath, [MAIN, ...args], { env: { ...process.env, ...env } })
    let stdout = ''
    let stderr = ''
    child.stdout.setEncoding('utf8').on('data', (part: string) => {
      stdout += part
      onOutput?.(child, stdout)
    })
    child.stderr.setEncoding('utf8').on('data', (part: string) => {
      stderr += part
      if (part === 'ready') onReady?.(child)
    })
    child.stdin.on('error', () => {})
    child.on('error', fail)
    child.on('close', (code, signal) => done({ code, signal, stdout, stderr }))
    if (input !== undefined) child.stdin.end(input)
    onStart?.(child)
  })
}

/** The objects of a stream with one JSON object per line. */
export function jsonLines(text: string): Record<string, unknown>[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line))
}

/** One process of a worker: how it is started, that it gives signs of life, and how it ended. */
import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import type { Duplex } from 'node:stream'
import type { EngineError } from '../errors/index.js'
import { createError, errnoOf } from '../errors/index.js'
import { packageRoot } from '../native.js'
import { OomWatch } from './oom-watch.js'
import { RpcPeer } from './rpc.js'
import type { IsolationSettings } from './settings.js'
import type { DeathReason } from './worker-info.js'

/** Lines of what it wrote that are kept, and characters of them. */
const [keptLines, keptCharacters] = [50, 64 * 1024] as const
/** Milliseconds that a process may take to end once it was told to. */
const endMs = 5000

export interface Death {
  pid: number
  /** Of a signal 128 and its number. */
  exitCode: number
  signal: NodeJS.Signals | null
  reason: DeathReason
  outOfMemory: boolean
  /** It was told to end, and did. */
  orderly: boolean
  /** The last lines that it wrote. */
  stderr: string[]
  /** What it was killed for, where that has a code of its own: WORKER_PROTOCOL_ERROR, RUNTIME_STEP_STUCK. */
  fault: EngineError | undefined
}

export class WorkerProcess {
  readonly pid: number
  readonly rpc: RpcPeer
  /** Resolves when the process is gone. */
  readonly death: Promise<Death>
  readonly #child: ChildProcess
  readonly #channel: Duplex
  readonly #oom: OomWatch
  #output = ''
  #reason: DeathReason | undefined
  #fault: EngineError | undefined
  #gone = false
  #told = false
  /** Ticks of the clock since the last sign of life. */
  #silent = 0
  #watch: NodeJS.Timeout | undefined

  private constructor(child: ChildProcess, pid: number, onTokens: (stream: number, bytes: Buffer) => void) {
    this.#child = child
    this.pid = pid
    this.#oom = new OomWatch(pid)
    this.#channel = child.stdio[3] as Duplex
    this.rpc = new RpcPeer(this.#channel, {
      onTokens,
      onFault: (error) => this.condemn(error, 'killed')
    })
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.#output = (this.#output + text).slice(-keptCharacters)
      })
      // What waits for an answer keeps the process alive, not that there is somebody who could give one.
      ;(stream as unknown as { unref?(): void } | null)?.unref?.()
    }
    ;(this.#channel as unknown as { unref(): void }).unref()
    child.unref()
    this.death = new Promise((resolve) => {
      child.once('exit', (code, signal) => {
        this.#gone = true
        clearInterval(this.#watch)
        // What it wrote last is read in the next turns of the loop.
        const end = (): void => resolve(this.#describe(code, signal))
        const late = setTimeout(end, 100)
        child.once('close', () => {
          clearTimeout(late)
          end()
        })
      })
    })
    this.#channel.on('data', () => {
      this.#silent = 0
    })
  }

  /** Whether it is being killed, or was. */
  get condemned(): boolean {
    return this.#reason !== undefined
  }

  /** WORKER_BINARY_NOT_FOUND {path}, WORKER_SPAWN_FAILED {errno, path}. */
  static async start(
    { execArgv, env }: Pick<IsolationSettings, 'execArgv' | 'env'>,
    onTokens: (stream: number, bytes: Buffer) => void
  ): Promise<WorkerProcess> {
    const main = join(packageRoot(), 'dist', 'esm', 'isolation', 'worker-main.js')
    const { execPath } = process
    for (const path of [execPath, main]) {
      if (existsSync(path)) continue
      throw createError('WORKER_BINARY_NOT_FOUND', `the worker's program ${path} is not there`, { path })
    }
    let child: ChildProcess
    try {
      child = spawn(execPath, [...execArgv, main], {
        stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
        env: { ...process.env, ...env }
      })
      if (child.pid === undefined) {
        throw await new Promise((resolve) => child.once('error', resolve))
      }
    } catch (cause) {
      const errno = errnoOf(cause)
      const text = `no worker process could be started: ${errno}`
      throw createError('WORKER_SPAWN_FAILED', text, { errno, path: execPath }, { cause })
    }
    child.on('error', () => {})
    return new WorkerProcess(child, child.pid, onTokens)
  }

  /** Kills it when it gives no sign of life for as long. A process that is itself held up does not blame the other one. */
  watch(intervalMs: number, timeoutMs: number): void {
    if (this.#gone) return
    const most = Math.ceil(timeoutMs / intervalMs)
    this.#watch = setInterval(() => {
      this.#oom.look()
      if (++this.#silent > most) this.kill('unresponsive')
    }, intervalMs).unref()
  }

  /** Kills it for what it sent or told, which is the error of its death. */
  condemn(fault: EngineError, reason: 'stuck' | 'killed'): void {
    if (this.condemned) return
    this.#fault = fault
    this.kill(reason)
  }

  /** SIGKILL: native work does not have to agree. */
  kill(reason: 'unresponsive' | 'stuck' | 'closed' | 'killed'): void {
    if (this.#gone) return
    this.#reason ??= reason
    this.#child.kill('SIGKILL')
  }

  /** Tells it to end, and kills it when it does not. Resolves when it is gone. */
  async end(): Promise<void> {
    if (!this.#gone) {
      const late = setTimeout(() => this.kill('killed'), endMs)
      this.#told = true
      this.#child.ref()
      this.rpc.notify('exit', {})
      this.#channel.end()
      await this.death
      clearTimeout(late)
    }
    this.#channel.destroy()
  }

  /** Ends it at once, where nothing can be waited for any more. */
  destroy(): void {
    this.#child.kill('SIGKILL')
  }

  #describe(code: number | null, signal: NodeJS.Signals | null): Death {
    const exitCode = code ?? 128 + constants.signals[signal!]
    const reason = this.#reason ?? (signal === 'SIGABRT' ? 'abort' : signal ? 'signal' : 'exit')
    const outOfMemory = signal === 'SIGKILL' && this.#reason === undefined && this.#oom.killed()
    const stderr = this.#output.split('\n').filter((line) => line !== '')
    return {
      pid: this.pid,
      exitCode,
      signal,
      reason,
      outOfMemory,
      orderly: this.#told && code === 0 && !this.condemned,
      stderr: stderr.slice(-keptLines),
      fault: this.#fault
    }
  }
}

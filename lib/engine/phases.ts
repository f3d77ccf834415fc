/** The named steps of starting an engine and of loading a model: each is timed, reported, and can be cancelled between two others. */
import { performance } from 'node:perf_hooks'
import type { Telemetry } from '../telemetry/telemetry.js'
import type { Span } from '../telemetry/tracing.js'

/** Boot: `model` is each load. */
export type BootPhase = 'configuration' | 'resources' | 'routing-seed' | 'telemetry' | 'model'
/** Loading: `warm-up` is there for a GPU, which compiles; `optimizer` for the day of training, and is skipped for inference. */
export type LoadPhase = 'manifest' | 'base-parameters' | 'experts' | 'routers' | 'warm-up' | 'optimizer'

export interface PhaseEvent {
  phase: BootPhase | LoadPhase
  status: 'started' | 'progress' | 'finished' | 'failed' | 'skipped'
  /** The id of the model that is being loaded; not there for the steps of booting. */
  model?: string
  /** What the step took, in milliseconds of a monotonic clock; when it ended. */
  durationMs?: number
  /** Why it was skipped. */
  reason?: string
  /** Progress: so many shaders of so many. */
  done?: number
  count?: number
}

const loadOrder: readonly LoadPhase[] = ['manifest', 'base-parameters', 'experts', 'routers', 'optimizer']

export class Phases {
  readonly #report: (event: PhaseEvent) => void
  readonly #check: () => void
  readonly #model: string | undefined
  readonly #span: Span | undefined
  #current: { phase: BootPhase | LoadPhase; began: number; span: Span | undefined } | undefined

  /** `check` throws where the whole must end; it is called before and after each step. */
  constructor(report: (event: PhaseEvent) => void, check: () => void = () => {}, model?: string, span?: Span) {
    this.#report = report
    this.#check = check
    this.#model = model
    this.#span = span
  }

  /** Runs one step. Throws what the step or the check throws. */
  async run<Result>(phase: BootPhase | LoadPhase, step: () => Result | Promise<Result>): Promise<Result> {
    this.begin(phase)
    try {
      const result = await step()
      this.#check()
      this.end()
      return result
    } catch (error) {
      this.fail(error)
      throw error
    }
  }

  /** For steps that are part of one call: this one begins. Throws what the check throws. */
  begin(phase: BootPhase | LoadPhase): void {
    this.#check()
    this.#current = { phase, began: performance.now(), span: this.#span?.child(`tiered_moe.load.${phase}`) }
    this.#emit({ phase, status: 'started' })
  }

  /** Of what the phase consists of so much is done. */
  progress(done: number, count: number): void {
    if (this.#current) this.#emit({ phase: this.#current.phase, status: 'progress', done, count })
  }

  end(): void {
    this.#finish('finished')
  }

  fail(error: unknown): void {
    this.#finish('failed', error)
  }

  /** The load has come as far as `phase`: those between end, and it begins. Nothing where it has begun already. */
  advance(phase: LoadPhase): void {
    const wanted = loadOrder.indexOf(phase)
    for (let at = this.#position(); this.#current && at >= 0 && at < wanted; at = this.#position()) {
      this.end()
      this.begin(loadOrder[at + 1]!)
    }
  }

  skip(phase: BootPhase | LoadPhase, reason: string): void {
    this.#check()
    this.#emit({ phase, status: 'skipped', reason })
  }

  #position(): number {
    return this.#current ? loadOrder.indexOf(this.#current.phase as LoadPhase) : -1
  }

  #finish(status: 'finished' | 'failed', error?: unknown): void {
    if (!this.#current) return
    const { phase, began, span } = this.#current
    this.#current = undefined
    span?.end(error)
    this.#emit({ phase, status, durationMs: performance.now() - began })
  }

  #emit(event: PhaseEvent): void {
    this.#report(this.#model === undefined ? event : { ...event, model: this.#model })
  }
}

/** Tells of phases: to the log, and to the caller's `onPhase`, whose own failure is not the engine's. */
export function reportPhases(
  event: 'boot_phase' | 'load_phase',
  telemetry: Telemetry,
  onPhase?: (event: PhaseEvent) => void
): (event: PhaseEvent) => void {
  return (phase) => {
    telemetry.event(event, `${phase.phase} ${phase.status}`, { ...phase })
    try {
      onPhase?.(phase)
    } catch {
      // A listener that wants to end a load has its signal for that.
    }
  }
}

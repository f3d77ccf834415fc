/** The named steps of starting an engine and of loading a model: each is timed, reported, and can be cancelled between two others. */
import { performance } from 'node:perf_hooks'

/** Boot: `model` is each load. */
export type BootPhase = 'configuration' | 'resources' | 'routing-seed' | 'telemetry' | 'model'
/** Loading: `optimizer` is there for the day of training, and is skipped for inference. */
export type LoadPhase = 'manifest' | 'base-parameters' | 'experts' | 'routers' | 'optimizer'

export interface PhaseEvent {
  phase: BootPhase | LoadPhase
  status: 'started' | 'finished' | 'failed' | 'skipped'
  /** The id of the model that is being loaded; not there for the steps of booting. */
  model?: string
  /** What the step took, in milliseconds of a monotonic clock; when it ended. */
  durationMs?: number
  /** Why it was skipped. */
  reason?: string
}

export class Phases {
  readonly #report: (event: PhaseEvent) => void
  readonly #check: () => void
  readonly #model: string | undefined

  /** `check` throws where the whole must end; it is called before and after each step. */
  constructor(report: (event: PhaseEvent) => void, check: () => void = () => {}, model?: string) {
    this.#report = report
    this.#check = check
    this.#model = model
  }

  /** Runs one step. Throws what the step or the check throws. */
  async run<Result>(phase: BootPhase | LoadPhase, step: () => Result | Promise<Result>): Promise<Result> {
    this.#check()
    this.#emit({ phase, status: 'started' })
    const began = performance.now()
    try {
      const result = await step()
      this.#emit({ phase, status: 'finished', durationMs: performance.now() - began })
      return result
    } catch (error) {
      this.#emit({ phase, status: 'failed', durationMs: performance.now() - began })
      throw error
    }
  }

  skip(phase: BootPhase | LoadPhase, reason: string): void {
    this.#check()
    this.#emit({ phase, status: 'skipped', reason })
  }

  #emit(event: PhaseEvent): void {
    this.#report(this.#model === undefined ? event : { ...event, model: this.#model })
  }
}

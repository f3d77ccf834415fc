/** A model whose next token is a function of the tokens before it, for the scheduler's tests: no addon, steps end when told. */
import { createError } from '../../lib/errors/index.js'
import type { NativeCancel, NativeModel, NativeSequence, StepItem, StepResult } from '../../lib/native.js'

class FakeSequence implements NativeSequence {
  readonly tokens: number[] = []
  disposed = false
  readonly maxTokens: number
  constructor(maxTokens: number) {
    this.maxTokens = maxTokens
  }
  get length(): number {
    return this.tokens.length
  }
  truncate(length: number): void {
    this.tokens.length = length
  }
  copyRoutes(): void {}
  dispose(): void {
    this.disposed = true
  }
}

export class FakeCancel implements NativeCancel {
  cancelled = false
  onCancel: (() => void) | undefined
  cancel(): void {
    this.cancelled = true
    this.onCancel?.()
  }
}

/** The token that follows: any function of the whole sequence will do. */
export const follow = (tokens: readonly number[]): number =>
  tokens.reduce((hash, token, position) => (hash * 31 + token + position) % 1009, 7) % 200

export class FakeModel implements NativeModel {
  readonly weightBytes = 0
  readonly kvBytesPerToken = { f16: 2, f32: 4 }
  readonly routing = { layers: 1, experts: 1, k: 1 }
  readonly sequences: FakeSequence[] = []
  /** Tokens of each sequence, per step that was begun. */
  readonly steps: number[][] = []
  /** Called for each step; what it throws is the step's failure. */
  onStep: ((items: readonly StepItem[], step: number) => void | Promise<void>) | undefined
  /** The failure of one sequence alone. */
  itemError: ((item: StepItem) => Error | undefined) | undefined
  running = 0

  get open(): number {
    return this.sequences.filter(({ disposed }) => !disposed).length
  }

  checkEnabled(): void {}
  expertUse() {
    return { steps: 0, rows: new Float64Array(0), lastStep: new Float64Array(0) }
  }
  expertStats(): undefined {}
  expertTrace(): undefined {}
  async setExpertBudget(): Promise<void> {}
  async placeExperts(): Promise<void> {}
  bringExpert(): void {}
  loseExpert(): void {}
  async adoptExperts(): Promise<void> {}
  async readAhead(): Promise<void> {}
  async placeVersions(): Promise<void> {}
  whereabouts(): undefined {}

  createSequence({ maxTokens }: { maxTokens: number }): NativeSequence {
    const sequence = new FakeSequence(maxTokens)
    this.sequences.push(sequence)
    return sequence
  }

  async step(items: StepItem[], cancel: NativeCancel): Promise<StepResult> {
    if (++this.running > 1) throw createError('RUNTIME_INVARIANT_VIOLATED', 'two steps at once')
    this.steps.push(items.map(({ tokens }) => tokens.length))
    try {
      await new Promise(setImmediate)
      await this.onStep?.(items, this.steps.length - 1)
      if ((cancel as FakeCancel).cancelled) throw createError('CANCELLED', 'cancelled')
    } finally {
      this.running--
    }
    const results = items.map((item) => {
      const sequence = item.sequence as FakeSequence
      const error = this.itemError?.(item)
      if (error) return { token: -1, error }
      if (sequence.disposed) throw createError('RUNTIME_INVARIANT_VIOLATED', 'a disposed sequence was stepped')
      if (sequence.length + item.tokens.length > sequence.maxTokens) {
        throw createError('CONTEXT_LENGTH_EXCEEDED', 'past the end of the sequence')
      }
      sequence.tokens.push(...item.tokens)
      return { token: item.sampling ? follow(sequence.tokens) : -1 }
    })
    return { items: results, rows: 0, expertRows: 0 }
  }

  async dispose(): Promise<void> {}
}

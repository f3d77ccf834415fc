/**
 * Runs steps: checks what they are made of, encodes them in one submit where all experts are on the GPU, and reads back what is wanted. Nothing of a sequence changes before
 * the whole step is done; a value that is not finite fails its sequence alone, and the step is run again without it.
 */
import { createError } from '../../../errors/index.js'
import type { NativeCancel, StepItem, StepItemResult, StepResult } from '../../../native.js'
import type { Commands, GpuDevice } from '../device.js'
import type { Experts } from '../experts/experts.js'
import { maskBits } from '../masks.js'
import type { Arena } from './arena.js'
import { logitRows } from './arena.js'
import { ForcedRoutes } from './forced-routes.js'
import type { LogitsShape } from './logits-shape.js'
import { logitsOp } from './logits-shape.js'
import { Outcome, outcomeBytes } from './outcome.js'
import type { Rotation } from './rotations.js'
import type { Sampler } from './sampler.js'
import { farthest, keyOf, type Shapes } from './shapes.js'
import type { Item, ItemLimits } from './step-items.js'
import { checkItems } from './step-items.js'
import type { StepShape } from './step-shape.js'
import { chunksOf } from './step-shape.js'
import type { UseCounts } from './use-counts.js'

/** From so many tokens on a step is submitted layer by layer, so that it can be cancelled between two. */
const longRows = 64

export interface StepperParts {
  device: GpuDevice
  arena: Arena
  shapes: Shapes
  experts: Experts | undefined
  rotations: readonly Rotation[]
  sampler: Sampler
  use: UseCounts
  limits: ItemLimits
}

/** A row whose logits are wanted, and whose they are. */
interface Wanted {
  item: Item
  row: number
}

const cancelled = () => createError('CANCELLED', 'the step was cancelled', { method: 'step' })

export class Stepper {
  readonly #parts: StepperParts
  readonly #outcome: Outcome
  readonly #forced: ForcedRoutes
  readonly #packed = new WeakMap<Uint8Array, Uint32Array>()
  /** The status on the GPU names no failure: it was read so, and nothing was run since. */
  #sound = false

  constructor(parts: StepperParts) {
    const { device, arena } = parts
    this.#parts = parts
    this.#outcome = new Outcome(outcomeBytes(arena.sizes, arena.alignment))
    this.#forced = new ForcedRoutes(device, arena)
  }

  async run(given: readonly StepItem[], cancel: NativeCancel): Promise<StepResult> {
    const items = checkItems(given, this.#parts.limits)
    const lengths = items.map(({ sequence }) => sequence.length)
    for (const { sequence } of items) sequence.enter()
    try {
      for (const { sequence, tokens } of items) await sequence.reserve(sequence.length + tokens.length)
      const results = items.map((): StepItemResult => ({ token: -1 }))
      // Mostly one: others come where experts were swapped between the begins of two requests.
      for (const part of this.#parts.experts?.byVersions(items) ?? [items]) {
        let left = part
        while (left.length > 0) {
          const failures = await this.#attempt(left, results, cancel)
          for (const [item, error] of failures) results[item.index] = { token: -1, error }
          left = failures.size > 0 ? left.filter((item) => !failures.has(item)) : []
        }
      }
      const rows = items.reduce((sum, { tokens }) => sum + tokens.length, 0)
      return { items: results, rows, expertRows: rows * this.#parts.arena.sizes.routing.k }
    } catch (error) {
      // Parts before the one that failed.
      for (const { sequence, index } of items) if (!sequence.disposed) sequence.truncate(lengths[index] as number)
      throw error
    } finally {
      for (const { sequence } of items) sequence.leave()
    }
  }

  dispose(): void {
    this.#outcome.dispose()
    this.#forced.dispose()
  }

  /** One run of the plan over these items. Commits them and gives nothing, or gives those that failed and commits none. */
  async #attempt(items: readonly Item[], results: StepItemResult[], cancel: NativeCancel): Promise<Map<Item, Error>> {
    const { device, arena, shapes, experts, rotations } = this.#parts
    const { plan, routing } = arena.sizes
    const { pool } = (items[0] as Item).sequence
    const key = keyOf(items, pool.pages)
    const { rows } = key
    const shape = await shapes.step(key, pool)
    const wanted = wantedRows(items)
    const logits = await this.#logits(wanted)
    const captures = items.some(({ sequence }) => sequence.captures)
    const choices = routing.layers * arena.choiceBytes(rows)
    const slices = plan.layers + 1 + logits.length
    this.#outcome.plan({
      status: slices * arena.alignment,
      ids: choices,
      weights: captures ? choices : 0,
      logits: wanted.length * plan.vocab * 4
    })
    await this.#forced.prepare(items)
    if (cancel.cancelled) throw cancelled()
    device.check()

    shape.data.fill(items, (enabled) => this.#pack(enabled))
    for (const [table, rotation] of rotations.entries())
      rotation.fill(shape.data.positionWords, shape.data.rotation(table))
    shape.write()
    experts?.beginStep(shapeOf(items), (items[0] as Item).epoch)
    await this.#encode(shape, chunksOf(farthest(items)), wanted, logits, captures, cancel)
    const failures = this.#failures(items, wanted, this.#outcome.status(), logits.length)
    if (failures.size > 0) return failures
    this.#commit(items, rows, captures, results)
    return failures
  }

  /** All of the step in as few submits as its experts allow; resolves when its outcome has been read. */
  async #encode(
    shape: StepShape,
    chunks: number,
    wanted: readonly Wanted[],
    logits: readonly LogitsShape[],
    captures: boolean,
    cancel: NativeCancel
  ): Promise<void> {
    const { device, arena, experts } = this.#parts
    const { rows } = shape.key
    const resident = experts?.resident ?? true
    let after: ((commands: Commands) => void) | undefined
    let from = 0
    const encode = (commands: Commands, end: number) => {
      if (from === 0) {
        if (!this.#sound) commands.copy(arena.get('sound'), arena.get('status'))
        this.#sound = false
      }
      after?.(commands)
      after = undefined
      for (; from < end; from++) {
        const piece = shape.pieces[from]
        if (piece?.do === 'run') commands.run(piece.launch)
        else if (piece?.do === 'attend') commands.run(piece.launch, chunks)
        else if (piece?.do === 'routed') this.#forced.encode(commands, piece.layer, rows)
        else if (piece?.do === 'experts' && resident) shape.experts?.encode(commands, piece.layer)
      }
    }
    for (const [at, piece] of shape.pieces.entries()) {
      if (piece.do !== 'experts' || (resident && rows < longRows)) continue
      if (cancel.cancelled) throw cancelled()
      if (resident) {
        device.submit((commands) => encode(commands, at + 1))
        await device.finished()
        continue
      }
      let ids: Promise<ArrayBuffer> | undefined
      let ahead: Promise<ArrayBuffer> | undefined
      const foresight = experts?.foresees(piece.layer + 1) ? await shape.foresight() : undefined
      device.submit((commands) => {
        encode(commands, at)
        ids = commands.read(arena.choices('ids', piece.layer, rows), arena.choiceBytes())
        ahead = foresight?.encode(commands, piece.layer + 1)
      })
      from = at + 1
      const [chosen, foreseen] = await Promise.all([ids as Promise<ArrayBuffer>, ahead])
      after = await shape.experts?.run(piece.layer, new Int32Array(chosen), {
        cancel,
        ahead: foreseen && new Int32Array(foreseen)
      })
    }
    if (cancel.cancelled) throw cancelled()
    device.submit((commands) => {
      encode(commands, shape.pieces.length)
      this.#outcome.begin(commands)
      this.#encodeLogits(commands, wanted, logits)
      this.#outcome.gather(commands, arena, captures)
    })
    await this.#outcome.read()
    // What it was read through is given back, and nothing else needs as much.
    if (this.#outcome.isLarger) device.memory.trim()
  }

  #encodeLogits(commands: Commands, wanted: readonly Wanted[], logits: readonly LogitsShape[]): void {
    const { arena } = this.#parts
    const { plan } = arena.sizes
    const op = logitsOp(plan.ops)
    if (!op) return
    const size = (plan.buffers[op.in] as number) * 4
    const [states, gathered] = [arena.buffer(op.in).buffer, arena.get('gathered').buffer]
    for (const [part, shape] of logits.entries()) {
      const first = part * logitRows
      const count = Math.min(logitRows, wanted.length - first)
      for (let i = 0; shape.gathers && i < count; i++) {
        const { row } = wanted[first + i] as Wanted
        commands.copy({ buffer: states, offset: row * size, size }, { buffer: gathered, offset: i * size, size })
      }
      shape.encode(commands)
      this.#outcome.gatherLogits(commands, arena.get('logits').buffer, first, count, plan.vocab)
    }
  }

  /** The launches of the wanted rows' logits, part by part. */
  async #logits(wanted: readonly Wanted[]): Promise<LogitsShape[]> {
    const gathers = wanted.some(({ row }, i) => row !== i)
    const shapes: LogitsShape[] = []
    for (let first = 0, part = 0; first < wanted.length; first += logitRows, part++) {
      shapes.push(await this.#parts.shapes.logits(Math.min(logitRows, wanted.length - first), part, gathers))
    }
    return shapes
  }

  /** Items with a value that is not finite: of each slice the lowest row, which names one. */
  #failures(items: readonly Item[], wanted: readonly Wanted[], status: Uint32Array, parts: number): Map<Item, Error> {
    const { arena } = this.#parts
    const { layers } = arena.sizes.plan
    const failures = new Map<Item, Error>()
    const words = arena.alignment / 4
    this.#sound = true
    const fail = (layer: number, row: number) => {
      let first = 0
      for (const item of items) {
        const count = item.tokens.length
        if (row < first + count) {
          const token = item.sequence.length + row - first
          const text = `a value of position ${token} is not finite (layer ${layer})`
          if (!failures.has(item)) failures.set(item, createError('RUNTIME_NAN_DETECTED', text, { layer, token }))
          return
        }
        first += count
      }
    }
    for (let slice = 0; slice <= layers + parts; slice++) {
      const row = status[slice * words] as number
      if (row === 0xffffffff) continue
      this.#sound = false
      if (slice <= layers) fail(slice, row)
      else fail(layers, (wanted[(slice - layers - 1) * logitRows + row] as Wanted).row)
    }
    return failures
  }

  #commit(items: readonly Item[], rows: number, captures: boolean, results: StepItemResult[]): void {
    const { arena, sampler, use } = this.#parts
    const { vocab } = arena.sizes.plan
    const { routing } = arena.sizes
    use.begin()
    let at = 0
    for (let layer = 0; layer < routing.layers; layer++) {
      const ids = this.#outcome.ids(layer, arena.choiceBytes(rows), rows * routing.k)
      use.add(layer, ids)
      if (!captures) continue
      const weights = this.#outcome.weights(layer, arena.choiceBytes(rows), rows * routing.k)
      let row = 0
      for (const { sequence, tokens } of items) {
        const [begin, end] = [row * routing.k, (row + tokens.length) * routing.k]
        if (sequence.captures) {
          sequence.keepRoutes(
            sequence.length,
            tokens.length,
            layer,
            routing.k,
            ids.subarray(begin, end),
            weights.subarray(begin, end)
          )
        }
        row += tokens.length
      }
    }
    for (const item of items) {
      const count = item.logits === 'all' ? item.tokens.length : item.logits === 'last' ? 1 : 0
      const logits = this.#outcome.logits(at, count, vocab)
      at += count
      item.logitsOut?.set(logits)
      const result = results[item.index] as StepItemResult
      try {
        if (item.sampling) {
          const position = item.sequence.length + item.tokens.length
          Object.assign(result, sampler.sample(logits.subarray((count - 1) * vocab), position, item.sampling))
        }
        item.sequence.advance(item.tokens.length)
      } catch (error) {
        result.error = error as Error
      }
    }
  }

  /** The bits of a TierSet's mask; a mask that a request brings is the same array at each of its steps. */
  #pack(enabled: Uint8Array): Uint32Array {
    let bits = this.#packed.get(enabled)
    if (!bits) {
      bits = maskBits(enabled, this.#parts.arena.sizes.routing.experts)
      this.#packed.set(enabled, bits)
    }
    return bits
  }
}

/** Rows whose logits are wanted, in the order of the items. */
function wantedRows(items: readonly Item[]): Wanted[] {
  const wanted: Wanted[] = []
  let first = 0
  for (const item of items) {
    const count = item.tokens.length
    if (item.logits === 'last') wanted.push({ item, row: first + count - 1 })
    else if (item.logits === 'all') for (let t = 0; t < count; t++) wanted.push({ item, row: first + t })
    first += count
  }
  return wanted
}

/** For the trace of an expert cache. */
function shapeOf(items: readonly Item[]): { sequences: number; rows: number; prefillRows: number } {
  let [rows, prefillRows] = [0, 0]
  for (const { tokens } of items) {
    rows += tokens.length
    if (tokens.length > 1) prefillRows += tokens.length
  }
  return { sequences: items.length, rows, prefillRows }
}

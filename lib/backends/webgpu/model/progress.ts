/** Progress of a load, in the order in which weights come: tensors one by one, and experts one by one. */
import type { Plan } from '../../../model/plan.js'
import type { LoadProgress, NativeGguf, WeightInfo } from '../../../native.js'

export class Progress {
  readonly #listener: ((progress: LoadProgress) => void) | undefined
  readonly #count: number
  #bytesTotal: number
  #index = 0
  #bytesDone = 0
  /** Of these, experts. */
  #experts = { count: 0, bytes: 0 }

  constructor(
    file: NativeGguf,
    plan: Plan,
    infos: readonly WeightInfo[],
    listener: ((progress: LoadProgress) => void) | undefined
  ) {
    this.#listener = listener
    const experts = plan.ops.flatMap((op) => (op.op === 'experts' ? [op.gate] : []))
    const shapes = new Map(plan.tensors.map(({ name, shape }) => [name, shape]))
    this.#count = infos.length + experts.reduce((sum, name) => sum + (shapes.get(name)?.[2] ?? 0), 0)
    const names = new Set(
      plan.tensors.flatMap(({ name, role, source }) => (role === 'experts' ? [source ?? name] : []))
    )
    const stacks = file.tensors.filter(({ name }) => names.has(name))
    this.#bytesTotal = [...infos, ...stacks].reduce((sum, { bytes }) => sum + bytes, 0)
  }

  /** A tensor is there. */
  loaded({ name, bytes }: WeightInfo): void {
    this.#tell(name, 1, bytes)
  }

  /** So many experts are there by now. */
  expertsLoaded(count: number, bytes: number): void {
    const before = this.#experts
    this.#experts = { count, bytes }
    this.#tell('experts', count - before.count, bytes - before.bytes)
  }

  #tell(tensor: string, count: number, bytes: number): void {
    this.#index += count
    this.#bytesDone += bytes
    this.#bytesTotal = Math.max(this.#bytesTotal, this.#bytesDone)
    this.#listener?.({
      tensor,
      index: this.#index - 1,
      count: this.#count,
      bytesDone: this.#bytesDone,
      bytesTotal: this.#bytesTotal
    })
  }
}

/** What an engine may take of the machine: memory for its models, reserved when it boots, and room on a disk for what they stage, looked for then. */
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { checkRoom } from '../disk-room.js'
import { createError, isSystemError, writeFailed } from '../errors/index.js'
import { makeFolder } from '../folders.js'
import type { Alternative } from '../memory-plan.js'
import type { NativeAddon, NativeReservation } from '../native.js'
import { byteSize } from '../validation.js'

/**
 * Memory that the models of an engine share. Without a limit each takes what is available when it is loaded. With one, the system grants it
 * when the engine boots: what no model has taken yet is held, so that no limit of the system can refuse it to a load.
 */
export class MemoryReserve {
  readonly #limit: number | undefined
  readonly #held: NativeReservation | undefined
  readonly #taken = new Map<string, number>()

  /** Throws RESOURCE_MEMORY_EXHAUSTED {resourceInfo, alternatives} where the machine has not that much. */
  constructor(limit: number | string | undefined, addon: Pick<NativeAddon, 'availableMemory' | 'reserveMemory'>) {
    this.#limit = limit === undefined ? undefined : byteSize(limit)
    if (this.#limit === undefined) return
    const available = addon.availableMemory()
    if (this.#limit > available) {
      throw exhausted(`the engine was to reserve ${this.#limit} bytes of memory`, this.#limit, available, null, null)
    }
    this.#held = addon.reserveMemory(this.#limit)
  }

  /** What a model may take that says `asked`: that, or all that is left. Throws RESOURCE_MEMORY_EXHAUSTED {resourceInfo, alternatives}. */
  offer(asked: number | undefined): number | undefined {
    if (this.#limit === undefined) return asked
    const current = this.#sum()
    const left = Math.max(0, this.#limit - current)
    if ((asked ?? 1) <= left) return asked ?? left
    throw exhausted(`the model was to take ${asked ?? 'some'} bytes`, asked ?? 1, left, current, this.#limit)
  }

  /** The model allocates so much from now on. */
  take(id: string, bytes: number): void {
    this.#taken.set(id, bytes)
    this.#hold()
  }

  /** What one has taken is under another name from now on. */
  move(from: string, to: string): void {
    const bytes = this.#taken.get(from)
    this.#taken.delete(from)
    if (bytes !== undefined) this.#taken.set(to, bytes)
  }

  /** The model holds nothing any more. */
  giveBack(id: string): void {
    this.#taken.delete(id)
    this.#hold()
  }

  dispose(): void {
    this.#held?.dispose()
  }

  #sum(): number {
    return [...this.#taken.values()].reduce((sum, bytes) => sum + bytes, 0)
  }

  /** What is left. Where the system does not grant it again, a later load is told. */
  #hold(): void {
    if (this.#limit !== undefined) this.#held?.resize(Math.max(0, this.#limit - this.#sum()))
  }
}

function exhausted(text: string, required: number, available: number, current: number | null, limit: number | null) {
  const less: Alternative = { change: 'memory', value: available, required: available }
  return createError('RESOURCE_MEMORY_EXHAUSTED', `${text}, available are ${available}`, {
    resourceInfo: { required, available, current, limit, unit: 'bytes' },
    alternatives: available > 0 ? [less] : []
  })
}

export interface Staging {
  /** It is made where there is none. */
  folder: string
  /** Room that there has to be: bytes, or as text ('16GiB'). */
  bytes: number | string
}

/** Throws FILE_WRITE_FAILED where the folder cannot be written, RESOURCE_DISK_EXHAUSTED {resourceInfo} where its disk has less room. */
export async function checkStaging({ folder, bytes }: Staging): Promise<void> {
  const required = byteSize(bytes)
  const probe = join(folder, `.probe-${process.pid}`)
  try {
    await makeFolder(folder)
    await writeFile(probe, '')
    await rm(probe)
    await checkRoom(folder, required, `the staging folder ${folder}`)
  } catch (error) {
    throw isSystemError(error) ? writeFailed(folder, error, `the staging folder ${folder}`) : error
  }
}

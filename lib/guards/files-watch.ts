/** Looks after the descriptors of the process: it tells before none is left. */
import { countOpenFiles } from './leaks.js'
import type { TellResource } from './resource-watch.js'

export class FilesWatch {
  readonly #least: number
  readonly #limit: () => number
  readonly #tell: TellResource
  #low = false

  /** `least`: descriptors that should be left; `limit`: how many there may be, 0 where nothing limits them. */
  constructor(least: number, limit: () => number, tell: TellResource) {
    this.#least = least
    this.#limit = limit
    this.#tell = tell
  }

  look(): void {
    const limit = this.#limit()
    const open = Math.min(countOpenFiles() ?? Number.NaN, limit)
    // Where the system does not list them nothing is known.
    if (limit === 0 || Number.isNaN(open)) return
    const left = limit - open
    const low = left < (this.#low ? 2 * this.#least : this.#least)
    if (low === this.#low) return
    this.#low = low
    const level = low ? 'low' : 'enough'
    const text = `${open} files are open of ${limit} that may be`
    this.#tell(text, { resource: 'files', state: level, open, limit }, level)
  }
}

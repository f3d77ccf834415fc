/** Everything that changes the experts of one loaded model: swaps while it serves, and their way into its checkpoint. */
import type { EventName } from '../telemetry/event-catalog.js'
import type { ChangedModel, CheckedChange } from './changes.js'
import { checkChanges, makeVersions } from './changes.js'
import type { ExpertPlace } from './history.js'
import type { PersistedExpert } from './persist.js'
import { persistVersions } from './persist.js'
import type { ExpertVersions } from './versions.js'

export interface SwappedExpert extends ExpertPlace {
  /** Counts the changes of this expert. */
  version: number
  /** Of its new blob. */
  sha256: string
}

/** What a swap changed. Requests that began before it do not see it. */
export interface ExpertSwap {
  /** Counts the swaps of the model. */
  epoch: number
  experts: SwappedExpert[]
}

export interface SwapsSetup extends Omit<ChangedModel, 'newest' | 'folder'> {
  id: string
  versions: ExpertVersions
  /** The SHA-256 of an expert's blob in the checkpoint that was loaded. */
  sha256Of(place: ExpertPlace): string | undefined
  /** This manifest is about to be written. */
  onPersist(manifest: string): Promise<void>
  tell(event: EventName, message: string, fields: Readonly<Record<string, unknown>>): void
}

export class ExpertSwaps {
  readonly versions: ExpertVersions
  readonly #setup: SwapsSetup
  /** What the checkpoint has, where this model has written it. */
  readonly #onDisk = new Map<string, string>()

  constructor(setup: SwapsSetup) {
    this.#setup = setup
    this.versions = setup.versions
  }

  get isCheckpoint(): boolean {
    return this.#setup.isCheckpoint
  }

  /** Engine.swapExperts. */
  async swap(changes: readonly CheckedChange[]): Promise<ExpertSwap> {
    const { versions, id, tell, layers, experts: count } = this.#setup
    checkChanges(changes, layers.length, count)
    const newest = (place: ExpertPlace) => versions.newest(place)
    const { epoch, experts } = await versions.change(() =>
      makeVersions({ ...this.#setup, newest, folder: versions.folder }, changes)
    )
    const swapped = experts.map(({ layer, expert, version, blob }) => ({ layer, expert, version, sha256: blob.sha256 }))
    for (const own of swapped) {
      const { action } = changes.find((change) => isOf(change, own))!
      const text = `expert ${own.expert} of layer ${own.layer} of ${id} is version ${own.version} now`
      tell('expert_swapped', text, { ...own, action, epoch })
    }
    return { epoch, experts: swapped }
  }

  /** Engine.persistExperts; nothing where the model is no checkpoint, and not what `persistable` leaves for a later call. */
  async persist(): Promise<PersistedExpert[]> {
    const { versions, path, addon, isCheckpoint, onPersist, sha256Of, id, tell } = this.#setup
    if (!isCheckpoint || versions.changed().length === 0) return []
    const experts = await versions.persist(async () => {
      const written = await persistVersions(
        path,
        versions.persistable(),
        (place) => this.#onDisk.get(keyOf(place)) ?? sha256Of(place),
        (descriptor) => addon.tryLockFile(descriptor),
        onPersist
      )
      for (const own of written.experts) this.#onDisk.set(keyOf(own), own.sha256)
      return { files: written.files, result: written.experts }
    })
    if (experts.length > 0)
      tell('experts_persisted', `${experts.length} experts of ${id} are in its checkpoint now`, { experts })
    return experts
  }
}

const keyOf = ({ layer, expert }: ExpertPlace): string => `${layer} ${expert}`

const isOf = (change: CheckedChange, { layer, expert }: ExpertPlace): boolean =>
  change.layer === layer && (change.action === 'merge' ? change.experts.includes(expert) : change.expert === expert)

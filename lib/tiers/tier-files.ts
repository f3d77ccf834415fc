/** Tiers of a loaded checkpoint whose files were not in its folder, and taking them from another one while the model serves. */
import type { Manifest } from '../checkpoint/manifest.js'
import type { TierPlaces } from '../checkpoint/tier-folder.js'
import type { AdoptedExperts, NativeModel } from '../native.js'
import type { ModelTiers } from './model-tiers.js'

/** Where nothing changes (AdoptedExperts). */
const unchanged = 0xffffffff

export class TierFiles {
  readonly manifest: Manifest
  readonly #tiers: ModelTiers
  readonly #native: NativeModel
  /** Names of tiers some of whose files are not here. */
  readonly #away: Set<string>
  /** Whether experts compete for memory: then they are read when a TierSet with them is activated or they are used. */
  readonly #competing: boolean

  /** `archived`: tiers some of whose files only the archive has; those that the model was loaded without are not available in `tiers`. */
  constructor(
    manifest: Manifest,
    tiers: ModelTiers,
    native: NativeModel,
    archived: readonly string[],
    competing: boolean
  ) {
    this.manifest = manifest
    this.#tiers = tiers
    this.#native = native
    this.#competing = competing
    const leftOut = tiers.tiers.filter(({ available }) => !available).map(({ name }) => name)
    this.#away = new Set([...archived, ...leftOut])
  }

  /** Tiers that can be added, in the model's order. */
  away(): string[] {
    return this.#tiers.names().filter((name) => this.#away.has(name))
  }

  /** The native model reads these experts from the new place from now on; no TierSet has the tiers yet. Throws what adoptExperts does. */
  adopt({ files, experts }: TierPlaces): Promise<void> {
    const { layers, experts: each } = this.#tiers
    const places: AdoptedExperts = {
      files,
      fileIndex: new Uint32Array(layers * each).fill(unchanged),
      offset: new Float64Array(layers * each)
    }
    for (const { layer, expert, file, offset } of experts) {
      places.fileIndex[layer * each + expert] = file
      places.offset[layer * each + expert] = offset
    }
    return this.#native.adoptExperts(places)
  }

  /** Takes an adoption back: the experts are where they were before, in the archive or nowhere. */
  abandon({ files, experts }: TierPlaces): void {
    for (const { layer, expert, file } of experts) this.#native.loseExpert(layer, expert, files[file]!)
  }

  /** Requests may use the tiers. Where every expert has memory of its own, theirs are read now. */
  publish(tiers: readonly string[]): void {
    this.#tiers.makeAvailable(tiers)
    for (const tier of tiers) this.#away.delete(tier)
    // A model that is unloaded now needs none of them.
    if (!this.#competing) void this.#native.readAhead(this.#tiers.mask(tiers)).catch(() => {})
  }
}

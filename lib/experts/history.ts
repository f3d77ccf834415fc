/** The versions of single experts, and which of them requests may still use. Decides only; versions.ts acts on it. */

/** The bytes of one version: a blob in a file, in the kernels' layout. */
export interface VersionBlob {
  path: string
  /** Bytes from the file's begin, a multiple of 4096. */
  offset: number
  crc32c: number
  /** 64 hexadecimal digits. */
  sha256: string
}

export interface ExpertPlace {
  layer: number
  /** Flat id in its layer. */
  expert: number
}

/** An expert as requests of an epoch and later ones use it. */
export interface ExpertVersion {
  epoch: number
  /** Counts the changes of this expert, from what a checkpoint states or 0. */
  version: number
  /** Undefined: the weights that were loaded from a GGUF file. */
  blob: VersionBlob | undefined
}

/** The versions of one expert, by ascending epoch; the first is that of all epochs before the second's. */
export type Chain = readonly ExpertVersion[]

/** Without the versions that none of the epochs uses. `epochs` has the current one. */
export function neededOf(chain: Chain, epochs: Iterable<number>): Chain {
  const used = new Set<ExpertVersion>()
  for (const epoch of epochs) used.add(chain.filter((version) => version.epoch <= epoch).at(-1) ?? chain[0]!)
  return chain.filter((version) => used.has(version))
}

/** A change as a journal keeps it. */
export interface ChangedExpert extends ExpertPlace {
  version: number
  blob: VersionBlob
  /** The version before. */
  previous: { version: number; blob?: VersionBlob | undefined }
}

export interface ChangeRecord {
  epoch: number
  experts: readonly ChangedExpert[]
}

export class History {
  readonly #chains = new Map<string, { place: ExpertPlace; chain: Chain }>()
  readonly #original: (place: ExpertPlace) => Omit<ExpertVersion, 'epoch'>

  /** `original`: what the model was loaded with. */
  constructor(original: (place: ExpertPlace) => Omit<ExpertVersion, 'epoch'>) {
    this.#original = original
  }

  chain({ layer, expert }: ExpertPlace): Chain {
    const known = this.#chains.get(`${layer} ${expert}`)
    return known?.chain ?? [{ epoch: 0, ...this.#original({ layer, expert }) }]
  }

  newest(place: ExpertPlace): ExpertVersion {
    return this.chain(place).at(-1)!
  }

  set({ layer, expert }: ExpertPlace, chain: Chain): void {
    this.#chains.set(`${layer} ${expert}`, { place: { layer, expert }, chain })
  }

  /** The experts that were ever changed. */
  changed(): { place: ExpertPlace; chain: Chain }[] {
    return [...this.#chains.values()]
  }

  /** Paths of all blobs. */
  paths(): Set<string> {
    return new Set(this.changed().flatMap(({ chain }) => chain.flatMap(({ blob }) => (blob ? [blob.path] : []))))
  }

  /** The changes that led to what there is, by ascending epoch: what `replay` of another history makes the same of. */
  records(): ChangeRecord[] {
    const epochs = new Map<number, ChangedExpert[]>()
    for (const { place, chain } of this.changed()) {
      for (const [i, { epoch, version, blob }] of chain.entries()) {
        if (epoch === 0 || !blob) continue
        const previous = chain[i - 1] ?? this.#original(place)
        const change = { ...place, version, blob, previous: { version: previous.version, blob: previous.blob } }
        epochs.set(epoch, [...(epochs.get(epoch) ?? []), change])
      }
    }
    return [...epochs].sort(([a], [b]) => a - b).map(([epoch, experts]) => ({ epoch, experts }))
  }

  /** Adds the changes of an earlier load. */
  replay(records: readonly ChangeRecord[]): void {
    for (const { epoch, experts } of records) {
      for (const { layer, expert, version, blob, previous } of experts) {
        const known = this.#chains.get(`${layer} ${expert}`)
        const before = known?.chain ?? [{ epoch: 0, version: previous.version, blob: previous.blob }]
        this.set({ layer, expert }, [...before, { epoch, version, blob }])
      }
    }
  }
}

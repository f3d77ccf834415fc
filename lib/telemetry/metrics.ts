/** Counters, gauges and histograms in one registry, read out as plain data. */

export type MetricType = 'counter' | 'gauge' | 'histogram'
export type Labels = Readonly<Record<string, string>>

/** One number; of a histogram its counts per bucket. */
export interface MetricSample {
  labels: Labels
  /** Of a histogram: how many were observed. */
  value: number
  /** Histograms only: the sum of what was observed, and how many were at most `le`. */
  sum?: number
  buckets?: { le: number; count: number }[]
}

/** One metric with all its label sets. Names and units are as Prometheus has them. */
export interface MetricFamily {
  name: string
  type: MetricType
  help: string
  samples: MetricSample[]
}

interface Cell {
  labels: Labels
  value: number
  sum: number
  /** Of a histogram: how many fell into each bucket, the last one without bound. */
  counts: number[]
}

/** Called for each observation of a histogram. */
export type ObservationListener = (name: string, value: number, labels: Labels) => void

const keyOf = (labels: Labels): string => JSON.stringify(Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1)))

export class Metric {
  readonly name: string
  readonly type: MetricType
  readonly help: string
  /** Upper bounds of a histogram's buckets, ascending. */
  readonly bounds: readonly number[]
  readonly #cells = new Map<string, Cell>()
  readonly #onObserve: (value: number, labels: Labels) => void

  constructor(
    name: string,
    type: MetricType,
    help: string,
    bounds: readonly number[],
    onObserve: (value: number, labels: Labels) => void
  ) {
    this.name = name
    this.type = type
    this.help = help
    this.bounds = bounds
    this.#onObserve = onObserve
  }

  add(value = 1, labels: Labels = {}): void {
    this.#cell(labels).value += value
  }

  set(value: number, labels: Labels = {}): void {
    this.#cell(labels).value = value
  }

  observe(value: number, labels: Labels = {}): void {
    const cell = this.#cell(labels)
    const at = this.bounds.findIndex((bound) => value <= bound)
    cell.counts[at < 0 ? this.bounds.length : at]! += 1
    cell.value += 1
    cell.sum += value
    this.#onObserve(value, labels)
  }

  /** Forgets the label sets that have all of `labels` (a model that is gone). */
  forget(labels: Labels): void {
    for (const [key, cell] of this.#cells) {
      if (Object.entries(labels).every(([name, value]) => cell.labels[name] === value)) this.#cells.delete(key)
    }
  }

  read(): MetricFamily {
    const { name, type, help } = this
    const samples = [...this.#cells.values()].map((cell): MetricSample => {
      const { labels, value, sum } = cell
      if (type !== 'histogram') return { labels, value }
      let count = 0
      const buckets = this.bounds.map((le, i) => {
        count += cell.counts[i]!
        return { le, count }
      })
      return { labels, value, sum, buckets }
    })
    return { name, type, help, samples }
  }

  #cell(labels: Labels): Cell {
    const key = keyOf(labels)
    let cell = this.#cells.get(key)
    if (!cell) {
      cell = { labels: { ...labels }, value: 0, sum: 0, counts: new Array<number>(this.bounds.length + 1).fill(0) }
      this.#cells.set(key, cell)
    }
    return cell
  }
}

export class Metrics {
  readonly #metrics = new Map<string, Metric>()
  readonly #sources = new Set<() => void>()
  readonly #observers = new Set<ObservationListener>()
  readonly #newcomers = new Set<(metric: Metric) => void>()

  /** What only grows. */
  counter(name: string, help: string): Metric {
    return this.#get(name, 'counter', help, [])
  }

  gauge(name: string, help: string): Metric {
    return this.#get(name, 'gauge', help, [])
  }

  /** How values are spread; `bounds` ascending. */
  histogram(name: string, help: string, bounds: readonly number[]): Metric {
    return this.#get(name, 'histogram', help, bounds)
  }

  /** `refresh` is called before each reading, to set what is kept elsewhere. Returns what removes it. */
  addSource(refresh: () => void): () => void {
    this.#sources.add(refresh)
    return () => {
      this.#sources.delete(refresh)
    }
  }

  onObserve(listener: ObservationListener): void {
    this.#observers.add(listener)
  }

  /** Called for each metric there is, and for each that comes. */
  onMetric(listener: (metric: Metric) => void): void {
    for (const metric of this.#metrics.values()) listener(metric)
    this.#newcomers.add(listener)
  }

  /** Takes over what is kept elsewhere. */
  refresh(): void {
    for (const source of this.#sources) source()
  }

  read(): MetricFamily[] {
    this.refresh()
    return [...this.#metrics.values()].map((metric) => metric.read())
  }

  #get(name: string, type: MetricType, help: string, bounds: readonly number[]): Metric {
    let metric = this.#metrics.get(name)
    if (!metric) {
      metric = new Metric(name, type, help, bounds, (value, labels) => {
        for (const listener of this.#observers) listener(name, value, labels)
      })
      this.#metrics.set(name, metric)
      for (const listener of this.#newcomers) listener(metric)
    }
    return metric
  }
}

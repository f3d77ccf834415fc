/** The metrics of an engine's workers and of its own, as one list. */
import type { MetricFamily, MetricSample } from '../telemetry/metrics.js'

/** With several workers each sample says of which it is. Counts of equal labels are added. */
export function mergedMetrics(own: readonly MetricFamily[], workers: readonly (readonly MetricFamily[])[]) {
  const families = new Map<string, MetricFamily>()
  const add = ({ name, type, help, samples }: MetricFamily, worker: string | undefined): void => {
    const family = families.get(name) ?? { name, type, help, samples: [] }
    families.set(name, family)
    for (const sample of samples) {
      const labels = worker === undefined ? sample.labels : { ...sample.labels, worker }
      const same = family.samples.find((other) => sameLabels(other, labels))
      if (same) same.value += sample.value
      else family.samples.push({ ...sample, labels })
    }
  }
  for (const family of own) add(family, undefined)
  for (const [i, metrics] of workers.entries()) {
    for (const family of metrics) add(family, workers.length > 1 ? String(i) : undefined)
  }
  return [...families.values()]
}

function sameLabels({ labels: own }: MetricSample, labels: MetricSample['labels']): boolean {
  const names = Object.keys(own)
  return names.length === Object.keys(labels).length && names.every((name) => own[name] === labels[name])
}

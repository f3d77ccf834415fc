/** Metrics as Prometheus reads them: the text exposition format, version 0.0.4. */
import type { MetricFamily, MetricSample } from '../telemetry/metrics.js'

export const metricsType = 'text/plain; version=0.0.4; charset=utf-8'

const escaped = (text: string): string => text.replace(/\\/g, '\\\\').replace(/\n/g, '\\n')

function labelText(labels: Readonly<Record<string, string>>): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escaped(value).replace(/"/g, '\\"')}"`)
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`
}

const numberText = (value: number): string =>
  Number.isFinite(value) ? String(value) : Number.isNaN(value) ? 'NaN' : value > 0 ? '+Inf' : '-Inf'

function lines(name: string, type: MetricFamily['type'], { labels, value, sum = 0, buckets = [] }: MetricSample) {
  if (type !== 'histogram') return [`${name}${labelText(labels)} ${numberText(value)}`]
  return [
    ...[...buckets, { le: Number.POSITIVE_INFINITY, count: value }].map(
      ({ le, count }) => `${name}_bucket${labelText({ ...labels, le: numberText(le) })} ${count}`
    ),
    `${name}_sum${labelText(labels)} ${numberText(sum)}`,
    `${name}_count${labelText(labels)} ${value}`
  ]
}

export function metricsText(families: readonly MetricFamily[]): string {
  const text = families
    .filter(({ samples }) => samples.length > 0)
    .flatMap(({ name, type, help, samples }) => [
      `# HELP ${name} ${escaped(help)}`,
      `# TYPE ${name} ${type}`,
      ...samples.flatMap((sample) => lines(name, type, sample))
    ])
  return `${text.join('\n')}\n`
}

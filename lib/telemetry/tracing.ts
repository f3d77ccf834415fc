/** Spans and metrics for OpenTelemetry, where the application has its API installed; nothing at all where it has not. */
import type { Labels, Metrics } from './metrics.js'

/** The application may have it; this package does not depend on it. */
const apiPackage: string = '@opentelemetry/api'
const scope = 'tiered-moe'

export type SpanValues = Readonly<Record<string, string | number | boolean>>

/** A piece of work under way. */
export interface Span {
  /** Adds what has become known. */
  set(values: SpanValues): void
  /** A part of this work. */
  child(name: string, values?: SpanValues): Span
  end(error?: unknown): void
}

export interface Tracing {
  span(name: string, values?: SpanValues): Span
  close(): void
}

const noSpan: Span = { set() {}, child: () => noSpan, end() {} }
/** Tracing that does nothing. */
export const noTracing: Tracing = { span: () => noSpan, close() {} }

/** The part of @opentelemetry/api 1.x that is used. */
interface Api {
  trace: {
    getTracer(name: string): {
      startSpan(name: string, options: { attributes?: SpanValues }, context?: unknown): ApiSpan
    }
    setSpan(context: unknown, span: ApiSpan): unknown
  }
  context: { active(): unknown }
  metrics: { getMeter(name: string): ApiMeter }
  SpanStatusCode: { ERROR: number }
}
interface ApiSpan {
  setAttributes(values: SpanValues): void
  setStatus(status: { code: number; message?: string }): void
  end(): void
}
type Observe = (result: { observe(value: number, labels: Labels): void }) => void
interface ApiObservable {
  addCallback(callback: Observe): void
  removeCallback(callback: Observe): void
}
interface ApiMeter {
  createObservableCounter(name: string, options: { description: string }): ApiObservable
  createObservableGauge(name: string, options: { description: string }): ApiObservable
  createHistogram(name: string, options: object): { record(value: number, labels: Labels): void }
}

/** Bridges to the application's OpenTelemetry API; noTracing where there is none. */
export async function openTracing(metrics: Metrics): Promise<Tracing> {
  let api: Api
  try {
    api = (await import(apiPackage)) as Api
  } catch {
    return noTracing
  }
  const tracer = api.trace.getTracer(scope)
  const start = (context: unknown, name: string, attributes: SpanValues = {}): Span => {
    const span = tracer.startSpan(name, { attributes }, context)
    return {
      set: (values) => span.setAttributes(values),
      child: (childName, values) => start(api.trace.setSpan(context, span), childName, values),
      end: (error) => {
        if (error !== undefined) {
          const { code, message } = error as { code?: string; message?: string }
          if (code !== undefined) span.setAttributes({ 'error.type': code })
          span.setStatus({ code: api.SpanStatusCode.ERROR, ...(message !== undefined && { message }) })
        }
        span.end()
      }
    }
  }
  const stop = exportMetrics(api.metrics.getMeter(scope), metrics)
  return { span: (name, values) => start(api.context.active(), name, values), close: stop }
}

/** Every metric of the registry as an instrument. Returns what ends it. */
function exportMetrics(meter: ApiMeter, metrics: Metrics): () => void {
  const histograms = new Map<string, { record(value: number, labels: Labels): void }>()
  const removers: (() => void)[] = []
  metrics.onMetric((metric) => {
    const { name, type, help, bounds } = metric
    if (type === 'histogram') {
      const advice = { explicitBucketBoundaries: [...bounds] }
      histograms.set(name, meter.createHistogram(name, { description: help, advice }))
      return
    }
    const options = { description: help }
    const instrument =
      type === 'counter' ? meter.createObservableCounter(name, options) : meter.createObservableGauge(name, options)
    const observe: Observe = (result) => {
      metrics.refresh()
      for (const { labels, value } of metric.read().samples) result.observe(value, labels)
    }
    instrument.addCallback(observe)
    removers.push(() => instrument.removeCallback(observe))
  })
  metrics.onObserve((name, value, labels) => histograms.get(name)?.record(value, labels))
  return () => {
    for (const remove of removers) remove()
  }
}

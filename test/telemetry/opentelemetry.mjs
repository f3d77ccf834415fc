// An application with the OpenTelemetry SDK: prints the spans and the metrics that an engine gave it. A process of its own, because the
// API's providers are global.
import { metrics, trace } from '@opentelemetry/api'
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader
} from '@opentelemetry/sdk-metrics'
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-base'
import { createEngine } from 'tiered-moe'

const exporter = new InMemorySpanExporter()
trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }))
const figures = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE)
const reader = new PeriodicExportingMetricReader({ exporter: figures, exportIntervalMillis: 3_600_000 })
const provider = new MeterProvider({ readers: [reader] })
metrics.setGlobalMeterProvider(provider)

const engine = await createEngine({ threads: 2, telemetry: { openTelemetry: process.argv[2] !== 'off' } })
const { id: model } = await engine.loadModel()
const request = { model, prompt: 'ROMEO:', temperature: 0, maxTokens: 12, ignoreEos: true, requestId: 'r1' }
await engine.generate(request)
await engine.generate({ ...request, requestId: 'r2' }, { signal: AbortSignal.abort() }).catch(() => {})
await engine.loadModel({ model: 'package.json', id: 'bad' }).catch(() => {})
await reader.forceFlush()
const spans = exporter.getFinishedSpans().map((span) => ({
  name: span.name,
  attributes: span.attributes,
  status: span.status,
  id: span.spanContext().spanId,
  parent: span.parentSpanContext?.spanId
}))
const collected = figures.getMetrics().flatMap(({ scopeMetrics }) => scopeMetrics.flatMap((scope) => scope.metrics))
const points = collected.map(({ descriptor, dataPoints }) => ({
  name: descriptor.name,
  points: dataPoints.map(({ attributes, value }) => ({ attributes, value }))
}))
await engine.dispose()
console.log(JSON.stringify({ spans, points }))

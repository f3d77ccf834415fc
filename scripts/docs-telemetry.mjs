// Writes docs/telemetry.md from the events and metrics of the built library; with --check it only says whether the page is up to date.
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { EngineMetrics } from '../dist/esm/telemetry/engine-metrics.js'
import { eventCatalog } from '../dist/esm/telemetry/event-catalog.js'

const page = join(dirname(fileURLToPath(import.meta.url)), '..', 'docs', 'telemetry.md')

const events = Object.entries(eventCatalog).map(([name, { level, meaning, chained }]) => {
  const fields = chained?.map((field) => `\`${field}\``).join(', ') ?? ''
  return `| \`${name}\` | ${level} | ${meaning} | ${fields} |`
})
const metrics = new EngineMetrics().read().map(({ name, type, help }) => `| \`${name}\` | ${type} | ${help} |`)

const text = `# Telemetry

The tables are generated from \`lib/telemetry/\` by \`node scripts/docs-telemetry.mjs\`; a test compares.

\`\`\`js
import pino from 'pino'
const engine = await createEngine({
  logger: pino(),                        // or anything with debug, info, warn and error (object, message); default: silence
  onError: (error, { method, model, requestId }) => Sentry.captureException(error),
  onEvent: (event) => {},                // every event, after the logger
  onPhase: (phase) => {},                // steps of booting and loading, with durations of a monotonic clock
  telemetry: { bufferedEvents: 1024, logPrompts: false, openTelemetry: true },
  audit: 'audit.log'
})
engine.metrics()                         // all metrics as plain data
\`\`\`

- Logging is on in every state of the engine but \`init\`. Events reach the logger in order, outside of the work that they tell of; an error takes
  everything before it along at once. When more wait than \`bufferedEvents\`, the oldest are dropped and counted. \`dispose()\` drains the buffer.
- A logged error is \`{code, message, details, model, requestId, timestamp}\` at the level of its code ([errors.md](errors.md)), and is told once.
  \`onError\` gets the error itself; it is not called when a caller aborts.
- Prompts are not logged; with \`logPrompts\` their first 100 characters are. Generated text and tokens never are.
- What a logger or a hook throws is ignored.

## Events

The last column names the fields that are chained in the audit log; an event without any is not in it.

| event | level | when | chained |
|---|---|---|---|
${events.join('\n')}

## Metrics

| metric | type | what |
|---|---|---|
${metrics.join('\n')}

\`modelStats(model).experts\` has the same counts, in words that exclude each other: \`hits\` found the expert in memory, \`late\` found it on its way and
waited, \`misses\` had to ask for it; \`uses\` is their sum. Its \`layers\` have them per layer, with the live recall of what is read ahead (\`predicted\` of
\`predictable\` demands) and \`prefetchWastedBytes\`, which were read ahead and evicted unused.

## OpenTelemetry

Where the application has \`@opentelemetry/api\` installed (an optional peer), its tracer gets a span \`tiered_moe.request\` for each request (model, request
id, prompt and completion tokens, steps, outcome; the error's code where it failed), under the caller's active span, and \`tiered_moe.load\` for each
load with one child per phase. Its meter gets every metric above. Where it is not installed, nothing happens.

## Boot, load, shutdown

| boot | load | shutdown |
|---|---|---|
| \`configuration\` | \`manifest\`: header, checks, tokenizer, memory plan | \`quiesce\`: new requests throw ENGINE_DISPOSED, loads end |
| \`resources\`: memory, a look at staging room, threads, journal | \`base-parameters\` | \`drain\`: requests that have begun go on for \`drainMs\`, then end with what they have |
| \`routing-seed\` | \`experts\` | \`flush\`: journal, log and audit log reach the disk |
| \`telemetry\`: audit log, OpenTelemetry | \`routers\` | \`persist\`: experts that serving has changed |
| \`model\`: each load | \`optimizer\`: skipped for inference | \`release\` |

\`createEngine(options, {signal})\` and \`loadModel(request, {signal})\` can be cancelled in each of them. \`dispose({drainMs})\` or the option \`drainMs\`
drains; \`dispose()\` without either ends at once. With \`signals: true\` or \`engine.handleSignals()\` SIGINT and SIGTERM drain and end the process with 0; a
second signal ends it at once with 130 or 143. \`engine.freeze()\` refuses new requests with ENGINE_FROZEN and resolves when none runs; \`engine.thaw()\` goes on.

Deadlines nest: \`timeouts: {requestMs, inferenceMs, cleanupMs}\` has to descend. A request counts from its first \`next()\`, inference from its first step;
\`cleanupMs\` is what a cancelled step may take to end: after it the request ends without the step, and the engine is \`recovering\` until the step has ended.

\`createEngine({ staging: { folder, bytes } })\` looks once, when the engine starts, whether the folder can be written and its disk has so much room
(\`statfs\`). It reserves nothing: what fills the disk later is met by whoever writes then.

## The audit log

One line of JSON per record, appended; \`tiered-moe audit verify FILE\` (or \`verifyAuditLog\`) reads it from the first byte to the last.

\`{"run":1,"seq":3,"event":"model_loaded","data":{…},"prev":"…","hash":"…","note":{"at":"…",…},"seal":"…"}\`

- \`hash\` = SHA-256 of \`[prev, seq, event, data]\`. \`data\` has what the same run has again: no time, no duration, no random name. The chain begins anew with each
  run of an engine, so **the same work gives the same last hash**, on any machine and with any number of threads.
- \`seal\` = SHA-256 of \`[seal of the line before, run, hash, note]\`. \`note\` has the rest: wall clock, durations, request ids, messages, paths. This chain runs
  through the whole file. A line that was changed, taken out, put in or moved breaks it.
- A cut at the end leaves a sound chain. Each run ends with \`run_closed\`, and \`verify\` refuses a file whose last run is not closed (\`--open\` allows it, for a run
  that goes on or has crashed). Whole runs that were cut off are found with the seal that was noted elsewhere: \`verify --seal HASH\`.
- Hashes without a secret prove nothing against somebody who can rewrite the whole file: keep seals elsewhere.
- A record is in the file before the call that made it returns: SIGKILL loses none. It is on the disk 100 ms later at most (\`syncMs\`), in groups, off the
  JavaScript thread; \`dispose()\` waits for it. A torn last line, which loss of power can leave, is cut off by the next run, which notes how many bytes.
- A log that does not verify is not appended to, nor one that another engine has open: \`createEngine\` throws AUDIT_LOG_INVALID.
- A full disk loses no request: FILE_WRITE_FAILED is reported once, records that could not be written are counted (\`tiered_moe_audit_records_total\`), each new
  one tries again, and the first to succeed follows an \`audit_records_lost\` with their number.
`

if (process.argv.includes('--check')) {
  if (readFileSync(page, 'utf8') !== text) {
    console.error('docs/telemetry.md is not what lib/telemetry/ says: run `node scripts/docs-telemetry.mjs`')
    process.exitCode = 1
  }
} else {
  writeFileSync(page, text)
}

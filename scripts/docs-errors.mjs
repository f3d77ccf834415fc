// Writes docs/errors.md from the catalogue of the built library; with --check it only says whether the page is up to date.
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { catalog } from '../dist/esm/errors/catalog.js'
import { engineCodeRetry, engineCodes } from '../dist/esm/errors/engine-codes.js'
import { httpClasses } from '../dist/esm/errors/http.js'
import { seedNames } from '../dist/esm/errors/seed-names.js'

const page = join(dirname(fileURLToPath(import.meta.url)), '..', 'docs', 'errors.md')
const titles = {
  configuration: 'Configuration: what the caller chose or passed',
  resource: 'Resource: too little of something',
  routing: 'Routing',
  runtime: 'Runtime: what went wrong while running'
}

const entries = Object.entries(catalog)
const sections = Object.entries(titles).map(([category, title]) => {
  const own = entries.filter(([, entry]) => entry.category === category)
  const table = own.map(([code, e]) => {
    const severity = `${e.severity}, ${e.scope}`
    const cells = [`[${code}](#${code.toLowerCase()})`, severity, e.retry, e.logLevel, e.httpStatus, e.exitCode]
    return `| ${[...cells, engineCodes[e.engineCode], e.engineCode, e.operator ? 'yes' : ''].join(' | ')} |`
  })
  const texts = own.map(([code, e]) => {
    const details = e.details.map((names) =>
      names
        .split('|')
        .map((name) => `\`${name}\``)
        .join(' or ')
    )
    const always = details.length > 0 ? `\n\nDetails: ${details.join(', ')}.` : ''
    return `### ${code}\n\n${e.meaning} *${e.suggestedAction}*${always}`
  })
  return [
    `## ${title}`,
    [
      '| code | severity, scope | retry | log | HTTP | exit | JSON-RPC | engineCode | operator |',
      '|---|---|---|---|---|---|---|---|---|',
      ...table
    ].join('\n'),
    ...texts
  ].join('\n\n')
})

const link = (code) => `[${code}](#${code.toLowerCase()})`
const table = (head, rows) =>
  [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n')

const classes = table(
  ['HTTP', 'class', 'codes'],
  Object.entries(httpClasses).map(([status, name]) => [
    status,
    name,
    entries.flatMap(([code, { httpStatus }]) => (httpStatus === Number(status) ? [link(code)] : [])).join(', ')
  ])
)
const names = table(
  ['engineCode', 'JSON-RPC', 'retry', 'codes'],
  Object.entries(engineCodes).map(([name, number]) => [
    name,
    number,
    engineCodeRetry[name],
    entries.flatMap(([code, { engineCode }]) => (engineCode === name ? [link(code)] : [])).join(', ')
  ])
)
const sources = table(
  ['document', 'its name', 'here', ''],
  seedNames.map(({ document, name, codes, event, note = '' }) => [
    document,
    name,
    [...codes.map(link), ...(event ? [`event \`${event}\``] : [])].join(', '),
    note
  ])
)

const text = `# Errors

Generated from \`lib/errors/catalog/\` by \`node scripts/docs-errors.mjs\`; a test compares the two.

Every failure is an \`EngineError\`. Match on \`code\`; the message is for people. All fields: \`code\`, \`category\`, \`severity\`, \`scope\`,
\`retryable\`, \`logLevel\`, \`engineCode\`, \`jsonRpcCode\`, \`httpStatus\`, \`exitCode\`, \`message\`, \`details\` (always with \`suggestedAction\`) and
\`cause\`. \`toJSON()\` gives the form for logs and for the wire, in snake_case.

- **retry**: whether the same call may succeed later. never · immediate · backoff · after (\`details.retryAfterSeconds\`) · inherit (as the cause).
- **severity**: fatal means that the thing named by the scope cannot go on. The process always can.
- **operator**: someone who runs the machine has to act.
- **Details** are what every error of the code has in \`details\`, null where it is not known; there may be more.
- A deadline that passed is a \`TimeoutError\` with \`method\`, \`timeout\`, \`duration\` (milliseconds) and \`requestId\`. An abort has the name \`AbortError\`.
- An open circuit is a \`CircuitBreakerOpenError\` with \`retryAfterMs\`, \`state\` and \`circuit\`; a retried call that was aborted is a \`RetryAbortedError\` with \`attempts\` ([resilience.md](resilience.md)).
- A lack has \`details.resourceInfo\` {required, available, current, limit, unit}; of memory also \`details.alternatives\`: what would fit, [{change, value, required}] with the option to change and the bytes it then takes; empty where nothing is known to.
- Every error that is made is told on Node's diagnostics channel \`tiered-moe:error\`, as \`{ code, error }\`, where somebody subscribes to it.
- A generation that ends by an error has \`details.text\`, \`details.tokens\` and \`details.usage\`: what there was up to then.

${sections.join('\n\n')}

## Classes of HTTP statuses

\`httpClasses[error.httpStatus]\`. The caller's faults (4xx) are not tried again, but for 429.

${classes}

## Names of mlx-serving

\`error.engineCode\`, with its JSON-RPC number. **retry** is for errors that have such a name alone; an error of this catalogue has its own.
\`errorFromWire(wire)\` makes an error again of what \`toJSON()\` or a JSON-RPC peer sent; one that it does not know is UNKNOWN_ERROR.

${names}

## What became of other names

Of the documents that this library was made from.

${sources}
`

if (process.argv.includes('--check')) {
  if (readFileSync(page, 'utf8') !== text) {
    console.error('docs/errors.md is not what lib/errors/catalog/ says: run `node scripts/docs-errors.mjs`')
    process.exitCode = 1
  }
} else {
  writeFileSync(page, text)
}

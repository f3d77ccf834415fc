// Writes docs/errors.md from the catalogue of the built library; with --check it only says whether the page is up to date.
import { readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { catalog, engineCodes } from '../dist/esm/errors/catalog.js'

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
  const texts = own.map(([code, e]) => `### ${code}\n\n${e.meaning} *${e.suggestedAction}*`)
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

const text = `# Errors

Generated from \`lib/errors/catalog/\` by \`node scripts/docs-errors.mjs\`; a test compares the two.

Every failure is an \`EngineError\`. Match on \`code\`; the message is for people. All fields: \`code\`, \`category\`, \`severity\`, \`scope\`,
\`retryable\`, \`logLevel\`, \`engineCode\`, \`jsonRpcCode\`, \`httpStatus\`, \`exitCode\`, \`message\`, \`details\` (always with \`suggestedAction\`) and
\`cause\`. \`toJSON()\` gives the form for logs and for the wire, in snake_case.

- **retry**: whether the same call may succeed later. never · immediate · backoff · after (\`details.retryAfterSeconds\`) · inherit (as the cause).
- **severity**: fatal means that the thing named by the scope cannot go on. The process always can.
- **operator**: someone who runs the machine has to act.
- A deadline that passed is a \`TimeoutError\` with \`method\`, \`timeout\`, \`duration\` (milliseconds) and \`requestId\`. An abort has the name \`AbortError\`.
- Lack of memory has \`details.resourceInfo\` {required, available, current, limit, unit} and \`details.alternatives\`: what would fit, [{change, value, required}] with the option to change and the bytes it then takes; empty where nothing is known to.
- A generation that ends by an error has \`details.text\`, \`details.tokens\` and \`details.usage\`: what there was up to then.

${sections.join('\n\n')}
`

if (process.argv.includes('--check')) {
  if (readFileSync(page, 'utf8') !== text) {
    console.error('docs/errors.md is not what lib/errors/catalog/ says: run `node scripts/docs-errors.mjs`')
    process.exitCode = 1
  }
} else {
  writeFileSync(page, text)
}

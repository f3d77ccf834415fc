// Writes docs/configuration.md from the schema of the built library and the comments of its interfaces; with --check it only says whether the page
// is up to date.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { fileSpelling } from '../dist/esm/config/keys.js'
import { allowedOf, childOf, inner, listForm, objectForm } from '../dist/esm/config/shape.js'
import { snakeCase } from '../dist/esm/errors/wire.js'
import { runtimeSchema } from '../dist/esm/runtime-schema.js'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const page = join(root, 'docs', 'configuration.md')

/** The members of every interface in lib/, by its name. */
const interfaces = new Map()
for (const name of readdirSync(join(root, 'lib'), { recursive: true, encoding: 'utf8' })) {
  if (!name.endsWith('.ts')) continue
  const file = ts.createSourceFile(name, readFileSync(join(root, 'lib', name), 'utf8'), ts.ScriptTarget.Latest, true)
  file.forEachChild((node) => {
    if (ts.isInterfaceDeclaration(node)) interfaces.set(node.name.text, node)
  })
}

/** The interfaces, and literal types with members, that a type names. */
function typesIn(type) {
  const found = []
  const visit = (node) => {
    if (ts.isTypeLiteralNode(node)) found.push(node)
    else if (ts.isIndexedAccessTypeNode(node)) {
      found.push(...typesIn(memberOf(typesIn(node.objectType), node.indexType.literal.text)?.type))
    } else if (ts.isTypeReferenceNode(node) && interfaces.has(node.typeName.getText())) {
      found.push(interfaces.get(node.typeName.getText()))
    } else {
      node.forEachChild(visit)
    }
    if (ts.isTypeReferenceNode(node)) node.typeArguments?.forEach(visit)
  }
  if (type) visit(type)
  return found
}

/** What an interface extends, also by way of Pick and Omit. */
const basesOf = (type) =>
  (type.heritageClauses ?? []).flatMap(({ types }) =>
    types.flatMap((base) => [
      ...(interfaces.has(base.expression.getText()) ? [interfaces.get(base.expression.getText())] : []),
      ...(base.typeArguments ?? []).flatMap(typesIn)
    ])
  )

/** The property of that name, of the first of the types that has it. */
function memberOf(types, key) {
  for (const type of types) {
    const member = type.members.find((each) => ts.isPropertySignature(each) && each.name.getText() === key)
    if (member) return member
    const inherited = memberOf(basesOf(type), key)
    if (inherited) return inherited
  }
  return undefined
}

function commentOf(member) {
  const [comment] = member ? ts.getJSDocCommentsAndTags(member) : []
  return comment ? ts.getTextOfJSDocComment(comment.comment).replace(/\s+/g, ' ') : ''
}

const cell = (text) => fileSpelling(runtimeSchema, text).replaceAll('|', '\\|')

/** One row per setting; `types`: where its comment may be. */
function rows(schema, path, types) {
  return Object.entries(objectForm(schema)?.shape ?? {}).flatMap(([key, field]) => {
    const member = memberOf(types, key)
    const own = `${path}.${snakeCase(key)}`
    const list = listForm(field) && objectForm(childOf(field, 0))
    // What a tier is has a page of its own.
    const parts =
      key === 'tiers' ? [] : rows(list ? childOf(field, 0) : field, list ? `${own}[]` : own, typesIn(member?.type))
    const row = `| \`${own}\` | ${cell(allowedOf(field) ?? '')} | ${cell(commentOf(member))} |`
    // A mapping is what is in it; where it is one of several forms, the others are told too.
    return parts.length === 0 || inner(field).def.type === 'union' ? [row, ...parts] : parts
  })
}

const titles = {
  engine: 'what `createEngine` takes',
  models: 'what `loadModel` takes of each model, in the order of loading',
  network: 'how servers are asked again: by downloads, and by the archive of every model that does not say it itself',
  download: 'what `tiered-moe pull` does',
  worker: 'whether the engine runs in processes of its own ([isolation.md](isolation.md)), and what becomes of them',
  streamRegistry: 'with worker processes: streams that are open',
  timeouts: 'deadlines of requests, and of loading a model',
  guards: 'when resources run short, and when a step is stuck',
  telemetry: 'what is logged',
  server: 'where `tiered-moe serve` listens, who may use it, and what a request may take ([server.md](server.md))',
  admission: 'which requests of the server run, wait and are refused'
}
const sections = Object.keys(runtimeSchema.shape).map((key) => {
  const member = memberOf([interfaces.get('RuntimeConfig')], key)
  const field = runtimeSchema.shape[key]
  const list = listForm(field)
  const path = list ? `${snakeCase(key)}[]` : snakeCase(key)
  const table = rows(list ? childOf(field, 0) : field, path, typesIn(member.type))
  return `## ${snakeCase(key)}: ${titles[key]}\n\n| setting | allowed | what |\n|---|---|---|\n${table.join('\n')}`
})

const text = `# Configuration

The tables are generated from \`lib/runtime-schema.ts\` by \`node scripts/docs-configuration.mjs\`; a test compares.

\`\`\`yaml
# tiered-moe.yaml
engine:
  threads: 8
  memory: 16GiB
  journal: /var/lib/tiered-moe/journal
models:
  - id: chat
    model: /models/olmoe
    memory: 4GiB
    tier_set: deep
timeouts: { request_ms: 60000, inference_ms: 50000, cleanup_ms: 5000 }

environments:
  development:
    engine: { threads: 2, journal: null }
\`\`\`

\`\`\`ts
import { loadRuntimeConfig, openConfigured } from 'tiered-moe'

const loaded = await loadRuntimeConfig()          // or { path, text, env, environment, options }
loaded.source('engine.threads')                   // 'tiered-moe.yaml:3'
const engine = await openConfigured(loaded, { logger })
\`\`\`

| command | does |
|---|---|
| \`tiered-moe config check [FILE]\` | exit 0 where every setting is known and allowed, in every environment; 2 with every fault, its line and column |
| \`tiered-moe config print [FILE] [--sources] [--json]\` | all settings as they come out, without secrets; with where each came from |
| \`tiered-moe run [MODEL] --config FILE\` | its first model, the one with that id, or another file with its engine; so do \`bench\` and \`price\`. Options go over it |

## What goes over what

Defaults < the file < \`environments.<name>\` of it < variables < options of the call (or of the command line).

- **File**: YAML or JSON, at most 128 KiB: the one that is named, else that of \`TIERED_MOE_CONFIG\`, else the first of \`tiered-moe.yaml\`, \`tiered-moe.yml\`
  and \`tiered-moe.json\` in the working directory, else none. Keys are in snake_case. Relative paths are seen from the working directory.
- **Environment**: \`TIERED_MOE_ENV\` (or \`environment\`) names one of the file's \`environments\`. Mappings are merged, lists and values replaced.
- **Variables**: the prefix \`TIERED_MOE__\`, then keys with two underscores between them: \`TIERED_MOE__ENGINE__MAX_BATCH_TOKENS=64\`,
  \`TIERED_MOE__MODELS__0__MEMORY=2GiB\`. The value is read as YAML: a number, a truth, a list or mapping in brackets, else a text; quote a text
  that looks like a number. Names that people give (of TierSets, headers) are in lower case.
- \`null\`, or an empty variable, takes a setting back to its default.
- A name that is not known is an error, with the nearest one that is; so is a setting that contradicts another one.
- Errors (exit code 2): CONFIG_INVALID {source, path, found, allowed, line, column, faults}, CONFIG_PARSE_FAILED {source, line, column, reason},
  CONFIG_NOT_FOUND, CONFIG_UNKNOWN_ENVIRONMENT ([errors.md](errors.md)). Values of headers, and names, passwords and queries in addresses, are in no
  error and in nothing that \`print\` writes.

${sections.join('\n\n')}
`

if (process.argv.includes('--check')) {
  if (readFileSync(page, 'utf8') !== text) {
    console.error(
      'docs/configuration.md is not what lib/runtime-schema.ts says: run `node scripts/docs-configuration.mjs`'
    )
    process.exitCode = 1
  }
} else {
  writeFileSync(page, text)
}

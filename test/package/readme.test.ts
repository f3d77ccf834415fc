// The README says what is true: its examples run, its links lead somewhere, its commands exist.
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const root = fileURLToPath(new URL('../..', import.meta.url))
const read = (path: string) => readFileSync(join(root, path), 'utf8')
const docs = readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md'))
const notes = readdirSync(join(root, 'bench', 'notes'))
const pages = [
  'README.md',
  'CONTRIBUTING.md',
  'bench/NOTES.md',
  ...notes.map((name) => `bench/notes/${name}`),
  'examples/README.md',
  ...docs.map((name) => `docs/${name}`)
]
const addon = process.env.TIERED_MOE_ADDON ?? join(root, 'build', 'Release', 'tiered_moe.node')

t.test('links and files', async (t) => {
  for (const page of pages) {
    const text = read(page)
    const links = [...text.matchAll(/\]\(([^)#]+)(?:#[^)]*)?\)/g)].map((match) => match[1] as string)
    for (const link of links) t.ok(existsSync(join(root, dirname(page), link)), `${page}: ${link}`)
    for (const [, script] of text.matchAll(/`?node ((?:bench|scripts)\/[\w-]+\.mjs)/g)) {
      t.ok(existsSync(join(root, script as string)), `${page}: ${script}`)
    }
  }
})

t.test('every page is in the index', async (t) => {
  const [, index] = /## Documents\n([\s\S]*?)\n## /.exec(read('README.md'))!
  for (const name of docs) t.ok(index!.includes(`(docs/${name})`), name)
  for (const name of notes) t.ok(read('bench/NOTES.md').includes(`(notes/${name})`), name)
})

t.test('npm scripts and commands', async (t) => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
  for (const page of pages) {
    for (const [, script] of read(page).matchAll(/npm run ([\w:]+)/g))
      t.ok(scripts[script as string], `${page}: ${script}`)
  }
  const commands = [...read('README.md').matchAll(/^\| `tiered-moe (\w+)/gm)].map((match) => match[1] as string)
  const help = execFileSync(process.execPath, [join(root, 'dist', 'esm', 'cli', 'main.js'), '--help'], {
    encoding: 'utf8'
  })
  for (const command of commands) t.match(help, new RegExp(`^  ${command}\\b`, 'm'), command)
})

t.test('environment variables', async (t) => {
  const described = [...read('README.md').matchAll(/^\| `([A-Z_]+)` \|/gm)].map((match) => match[1] as string)
  const files = ['lib', 'csrc', 'bench'].flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
      .filter((path) => /\.(ts|mjs|cpp|h)$/.test(path) && !path.includes('node_modules'))
      .map((path) => join(folder, path))
  )
  // Two underscores begin a setting: docs/configuration.md has these.
  const named = [...files, 'addon.cjs'].flatMap(
    (path) => read(path).match(/\b(TIERED_MOE|PEER)_(_|[A-Z][A-Z_]*)/g) ?? []
  )
  t.same([...new Set(named)].sort(), described.sort())
})

const skip = existsSync(addon) ? false : 'the addon is not built'
t.test('examples', { skip }, async (t) => {
  const examples = [...read('README.md').matchAll(/```js\n([\s\S]*?)```/g)].map((match) => match[1] as string)
  t.ok(examples.length >= 2)
  for (const [i, example] of examples.entries()) {
    // Beside the package itself, so that its own name resolves.
    const path = join(root, 'dist', `readme-${process.pid}-${i}.mjs`)
    writeFileSync(path, example)
    t.teardown(() => rmSync(path, { force: true }))
    const output = execFileSync(process.execPath, [path], { cwd: root, encoding: 'utf8', timeout: 60_000 })
    t.ok(output.length > 20, `example ${i + 1} prints something`)
  }
})

// What a page loads with `tiered-moe/webgpu`: modules of this package alone, and no name that only Node has.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import ts from 'typescript'

const dist = fileURLToPath(new URL('../../dist/esm', import.meta.url))

const nodeOnly = ['process', 'Buffer', 'global', 'require', '__dirname', '__filename', 'setImmediate']

interface Module {
  /** Specifiers of import, export … from, import() and require(). */
  imports: string[]
  /** Names of Node's that are used as variables. */
  names: string[]
}

const known = new Map<string, Module>()

function read(path: string): Module {
  const before = known.get(path)
  if (before) return before
  const source = ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.ES2022, true, ts.ScriptKind.JS)
  const found: Module = { imports: [], names: [] }
  const visit = (node: ts.Node): void => {
    if ((ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) && node.moduleSpecifier)
      found.imports.push((node.moduleSpecifier as ts.StringLiteral).text)
    if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword)
      found.imports.push(node.arguments[0]?.getText(source).replace(/^'|'$/g, '') ?? '')
    if (ts.isIdentifier(node) && nodeOnly.includes(node.text) && isVariable(node)) found.names.push(node.text)
    ts.forEachChild(node, visit)
  }
  visit(source)
  known.set(path, found)
  return found
}

/** Not the name of a property. */
function isVariable(node: ts.Identifier): boolean {
  const { parent } = node
  const named =
    ts.isPropertyAccessExpression(parent) || ts.isPropertyAssignment(parent) || ts.isMethodDeclaration(parent)
  return !(named && parent.name === node)
}

/** Every module that `entry` loads, and what is wrong with them, as `module: what`. */
function walk(entry: string): { modules: string[]; faults: string[] } {
  const modules = new Set<string>()
  const faults: string[] = []
  const visit = (path: string): void => {
    const name = relative(dist, path)
    if (modules.has(name)) return
    modules.add(name)
    const { imports, names } = read(path)
    faults.push(...names.map((used) => `${name}: ${used}`))
    for (const specifier of imports) {
      const to = join(dirname(path), specifier)
      if (specifier.startsWith('.') && specifier.endsWith('.js') && existsSync(to)) visit(to)
      else faults.push(`${name}: import '${specifier}'`)
    }
  }
  visit(join(dist, entry))
  return { modules: [...modules], faults }
}

t.test('a page needs nothing but this package', async (t) => {
  const { modules, faults } = walk('webgpu.js')
  t.same(faults, [])
  for (const name of ['backends/webgpu/shader-texts.js', 'backends/webgpu/kernels/route.js', 'errors/index.js'])
    t.ok(modules.includes(name), name)
})

t.test('of the WGSL backend one file is for Node alone', async (t) => {
  const folder = join(dist, 'backends', 'webgpu')
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.js'))
  for (const name of files) {
    const { faults } = walk(join('backends', 'webgpu', name))
    if (name === 'node-provider.js') t.not(faults.length, 0, name)
    else t.same(faults, [], name)
  }
})

t.test('what Node needs is seen', async (t) => {
  const { faults } = walk('kernels.js')
  for (const fault of ["native.js: import '#addon'", "native.js: import 'node:fs'"]) t.ok(faults.includes(fault), fault)
  const { faults: more } = walk('index.js')
  t.ok(more.some((fault) => fault.endsWith(': process')))
  t.ok(more.some((fault) => fault.endsWith(': Buffer')))
})

// Hooks of test-loader.mjs.
import { existsSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const errors = pathToFileURL(join(root, 'lib', 'errors', 'index.ts')).href
const cache = join(root, 'node_modules', '.cache', 'typescript')

/** `./x.js` is what a file of this tree calls `./x.ts`. */
export async function resolve(specifier, context, next) {
  if (specifier.startsWith('.') && specifier.endsWith('.js') && context.parentURL?.endsWith('.ts')) {
    const url = new URL(`${specifier.slice(0, -2)}ts`, context.parentURL)
    if (existsSync(url)) return { url: url.href, format: 'module', shortCircuit: true }
  }
  return next(specifier, context)
}

export async function load(url, context, next) {
  if (!url.startsWith(pathToFileURL(root).href) || !url.endsWith('.ts') || url.includes('/node_modules/'))
    return next(url, context)
  const source = await compiled(fileURLToPath(url))
  // A test that imports a part of lib/ has its errors told too: raised.mjs listens.
  const told = url === errors ? `${source}\nimport './diagnostics.js'` : source
  return { format: 'module', source: told, shortCircuit: true }
}

async function compiled(path) {
  const to = join(cache, `${relative(root, path).slice(0, -2)}js`)
  if (existsSync(to) && statSync(to).mtimeMs >= statSync(path).mtimeMs) return readFileSync(to, 'utf8')
  const { default: ts } = await import('typescript')
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile)
  const { options } = ts.convertCompilerOptionsFromJson(config.compilerOptions, root)
  const own = {
    ...options,
    noEmit: false,
    declaration: false,
    module: ts.ModuleKind.ESNext,
    inlineSourceMap: true,
    inlineSources: true
  }
  const { outputText } = ts.transpileModule(readFileSync(path, 'utf8'), { compilerOptions: own, fileName: path })
  mkdirSync(dirname(to), { recursive: true })
  // Other processes read it meanwhile.
  writeFileSync(`${to}.${process.pid}`, outputText)
  renameSync(`${to}.${process.pid}`, to)
  return outputText
}

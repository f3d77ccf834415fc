// llama.cpp's own tokenizer, as a child process that takes texts of any bytes, and where its source is.
import { execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { outputFolder, root } from './harness.mjs'
import { peerModules } from './peers.mjs'

/** {source, libraries}: a folder with a built llama.cpp, or the source that node-llama-cpp brings along and its libraries; undefined without. */
export function findLlama(folder) {
  if (folder) return { source: folder, libraries: join(folder, 'build', 'bin') }
  const bundle = join(peerModules, 'node-llama-cpp', 'llama', 'gitRelease.bundle')
  const packages = join(peerModules, '@node-llama-cpp')
  const libraries = join(packages, 'linux-x64', 'bins', 'linux-x64')
  if (!existsSync(bundle) || !existsSync(libraries)) return undefined
  const git = (...args) => execFileSync('git', args, { stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 1e9 })
  const commit = String(git('bundle', 'list-heads', bundle)).slice(0, 12)
  const source = join(outputFolder, `llama-cpp-${commit}`)
  if (!existsSync(join(source, 'models'))) {
    const store = `${source}.git`
    mkdirSync(source, { recursive: true })
    git('init', '--quiet', '--bare', store)
    git('-C', store, 'fetch', '--quiet', bundle, 'HEAD')
    const files = git('-C', store, 'archive', 'FETCH_HEAD', 'models', 'include', 'ggml/include')
    execFileSync('tar', ['-x', '-C', source], { input: files })
  }
  return { source, libraries }
}

/** Compiles bench/peer_tokens.cpp against the libraries that are there. */
export function buildPeer({ source, libraries }) {
  const program = join(outputFolder, 'peer_tokens')
  const library = (name) => {
    const file = readdirSync(libraries).find((found) => new RegExp(`^lib${name}(\\.v[\\d.]+)?\\.so$`).test(found))
    if (!file) throw new Error(`no lib${name} in ${libraries}`)
    return join(libraries, file)
  }
  const [compiler, ...before] = (process.env.CXX ?? 'g++').split(' ')
  const includes = ['include', 'ggml/include'].map((folder) => `-I${join(source, folder)}`)
  const linked = ['llama', 'ggml', 'ggml-base'].map(library)
  const flags = ['-std=c++17', '-O1', '-Wl,--allow-shlib-undefined', `-Wl,-rpath,${libraries}`]
  execFileSync(compiler, [
    ...before,
    ...flags,
    ...includes,
    join(root, 'bench/peer_tokens.cpp'),
    ...linked,
    '-o',
    program
  ])
  return { program, libraries }
}

/** Ids of each {bytes, special, added} under a file's vocabulary; undefined where llama.cpp threw. */
export async function peerTokens({ program, libraries }, path, lines) {
  const child = spawn(program, [path, libraries], { stdio: ['pipe', 'pipe', 'pipe'] })
  const [parts, words] = [[], []]
  child.stdout.on('data', (part) => parts.push(part))
  child.stderr.on('data', (part) => words.push(part))
  // a child that ends early breaks the pipe; its exit code tells
  child.stdin.on('error', () => {})
  for (const { bytes, special, added } of lines) {
    const header = Buffer.alloc(8)
    header.writeUInt32LE((special ? 1 : 0) + (added ? 2 : 0), 0)
    header.writeUInt32LE(bytes.length, 4)
    child.stdin.write(Buffer.concat([header, bytes]))
  }
  child.stdin.end()
  const [status, signal] = await new Promise((resolve) => child.on('close', (...how) => resolve(how)))
  if (status !== 0)
    throw new Error(
      `peer_tokens ${path} ended with ${signal ?? status}: ${Buffer.concat(words).toString().slice(-500)}`
    )
  const out = Buffer.concat(parts)
  let at = 0
  const next = () => {
    at += 4
    return out.readInt32LE(at - 4)
  }
  return lines.map(() => {
    const count = next()
    return count < 0 ? undefined : Array.from({ length: count }, next)
  })
}

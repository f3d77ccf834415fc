// The addon's own parsers under libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer (clang).
import { execFile, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { outputFolder, root } from '../harness.mjs'
import { tinyModel } from './tiny-model.mjs'

export const nativeQuotas = {
  gguf: { full: 300_000, short: 4000 },
  blob: { full: 60_000, short: 1500 },
  replay: { full: 100_000, short: 3000 }
}

const parts =
  /^csrc\/(core\/(file_errors|memory|model_file|status|gathered_files|grid_read|gguf|gguf_header|gguf_keys|gguf_types|sha256)|core\/store\/(blob_source|cache_ranking|crc32c|direct_file|expert_cache|expert_layout|simulator|simulator_peers|trace|use_predictor|wave_schedule)|core\/checkpoint\/measure_shard|quant\/(blocks|repack))\.cpp$/
const flags = [
  '-std=c++17',
  '-O1',
  '-gline-tables-only',
  '-fno-exceptions',
  '-ffp-contract=off',
  '-pthread',
  '-Icsrc',
  '-Ibench/fuzz/native'
]
const sanitizers = '-fsanitize=fuzzer-no-link,address,undefined'
const run = promisify(execFile)

/** The compiler: clang++, or undefined where there is none. */
export function findClang() {
  const name = process.env.CLANG ?? 'clang++'
  return spawnSync(name, ['--version']).status === 0 ? name : undefined
}

const folder = join(outputFolder, 'fuzz-build')
const objectOf = (source) => join(folder, `${source.replaceAll('/', '_')}.o`)

function compile(clang, source, object) {
  const args = [...flags, sanitizers, '-fno-sanitize-recover=undefined', '-c', source, '-o', object]
  return run(clang, args, { cwd: root })
}

async function link(clang, name, objects) {
  const program = join(folder, name)
  await run(clang, ['-fsanitize=fuzzer,address,undefined', '-pthread', ...objects, '-o', program], { cwd: root })
  return program
}

/** When anything that is compiled here was last changed, or its compiler's options. */
function lastChange() {
  const trees = ['csrc', 'bench/fuzz'].map((name) => join(root, name))
  const files = trees.flatMap((tree) => readdirSync(tree, { recursive: true }).map((name) => join(tree, name)))
  return Math.max(...files.map((path) => statSync(path).mtimeMs))
}

const isNewer = (path, moment) => existsSync(path) && statSync(path).mtimeMs > moment

/** The program of each parser: name → path. What was compiled since the last change stays. */
export async function buildNative(clang) {
  mkdirSync(folder, { recursive: true })
  const names = Object.keys(nativeQuotas)
  const changed = lastChange()
  const queue = [...sources(), ...names.map(mainOf)].filter((source) => !isNewer(objectOf(source), changed))
  const work = async () => {
    for (let next = queue.pop(); next; next = queue.pop()) await compile(clang, next, objectOf(next))
  }
  await Promise.all([work(), work()])
  const linked = names.map((name) => link(clang, name, [mainOf(name), ...sources()].map(objectOf)))
  return Object.fromEntries((await Promise.all(linked)).map((program, i) => [names[i], program]))
}

/** After buildNative: the program of a parser with `edit(text)` in the place of one of its sources. */
export async function buildMutant(clang, name, file, edit) {
  const path = join(folder, `mutant_${file.replaceAll('/', '_')}`)
  writeFileSync(path, edit(readFileSync(join(root, file), 'utf8')))
  await compile(clang, path, `${path}.o`)
  const objects = [mainOf(name), ...sources()].map((source) => (source === file ? `${path}.o` : objectOf(source)))
  return link(clang, `${name}-mutant`, objects)
}

const mainOf = (name) => `bench/fuzz/native/${name}_fuzz.cpp`
const sources = () =>
  readFileSync(join(root, 'csrc/sources.txt'), 'utf8')
    .split('\n')
    .filter((line) => parts.test(line))

/** Inputs to begin with: small files of every kind. */
async function seeds(name) {
  if (name === 'gguf') {
    const kinds = [{}, { architecture: 'qwen3moe' }, { architecture: 'llama', type: 'Q4_0', tied: true }]
    const small = { layers: 1, vocab: 260, experts: 2, feedForward: 32, type: 'Q8_0' }
    const made = await Promise.all(kinds.map((kind) => tinyModel({ ...small, ...kind })))
    const { encodeGguf } = await import('../../test/fixtures/gguf.ts')
    const array = (element, value) => ({ key: `a.${element}`, type: 'array', element, value })
    // A header alone, where nearly each change meets a length, a type or a name.
    const header = {
      metadata: [array('u32', [1, 2, 3]), array('string', ['a', 'bc']), array('bool', [true])],
      tensors: []
    }
    return [...made.map(({ bytes }) => bytes), encodeGguf(header)]
  }
  if (name === 'blob')
    return [Buffer.alloc(70_000), Buffer.concat([Buffer.from([0, 1, 3, 3, 3, 0, 0, 1, 0]), Buffer.alloc(40_000, 7)])]
  const words = [0x301, 1, 1, 0, 0x302, 0, 1, 2, 0x203, 0, 3, 0x204, 1, 1, 0x205, 2, 1, 0x106, 3, 0x107, 2, 0x208, 0, 1]
  return [Buffer.concat([Buffer.from([0, 2, 3, 7, 4, 1, 1]), Buffer.from(Uint32Array.from(words).buffer)])]
}

/** What a program said when it ended: a sanitizer's report from its begin on, or its last lines. */
function reasonIn(text) {
  const from = text.search(/ERROR: |runtime error: |it took more /)
  return from < 0 ? text.slice(-3000) : text.slice(from, from + 4000)
}

/** What one program did with so many inputs: {inputs, failure}. */
export async function runNative(name, program, { seed, runs }) {
  const corpus = join(folder, `${name}-corpus`)
  rmSync(corpus, { recursive: true, force: true })
  mkdirSync(corpus, { recursive: true })
  for (const [i, bytes] of (await seeds(name)).entries()) writeFileSync(join(corpus, `seed-${i}`), bytes)
  const found = join(outputFolder, 'fuzz')
  mkdirSync(found, { recursive: true })
  const args = [
    `-seed=${seed}`,
    `-runs=${runs}`,
    `-max_len=${name === 'gguf' ? 98_304 : 131_072}`,
    // In seconds, of any clock: the program itself looks at its own.
    '-timeout=60',
    '-rss_limit_mb=1536',
    // Of one allocation: what a header says never takes more than a multiple of its own bytes.
    `-malloc_limit_mb=${name === 'gguf' ? 16 : 512}`,
    `-artifact_prefix=${found}/${name}-`,
    '-print_final_stats=1',
    corpus
  ]
  const env = { ...process.env, ASAN_OPTIONS: 'detect_leaks=1', UBSAN_OPTIONS: 'print_stacktrace=1' }
  const result = await run(program, args, { cwd: root, env, maxBuffer: 2 ** 26 }).then(
    ({ stderr }) => ({ text: stderr }),
    (error) => ({ text: `${error.stderr}`, failed: error.code ?? error.signal })
  )
  const figure = (key) => Number(new RegExp(`stat::${key}:\\s+(\\d+)`).exec(result.text)?.[1] ?? 0)
  const inputs = figure('number_of_executed_units')
  const failure = result.failed === undefined ? undefined : reasonIn(result.text)
  return {
    inputs,
    failure,
    peakBytes: figure('peak_rss_mb') * 2 ** 20,
    features: Number(/.*ft: (\d+)/s.exec(result.text)?.[1] ?? 0)
  }
}

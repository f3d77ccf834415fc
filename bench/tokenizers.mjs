// The ids of this package's tokenizers beside llama.cpp's, on its own vocabularies and cases and on generated lines.
//   node bench/tokenizers.mjs               a seeded part of the lines (PEER_NODE_MODULES or `npm install` in bench/: source and libraries come with it)
//   node bench/tokenizers.mjs --full        2,400 lines a vocabulary, 1,200 a pre-tokenizer
//   options: --llama-cpp FOLDER (a built llama.cpp instead), --seed N, --only NAME, --show N (the first N differences of each)
// Every file models/ggml-vocab-*.gguf with a tokenizer of this package; and the GPT-2 vocabulary once more under each pre-tokenizer there is. Where
// ids differ, @huggingface/tokenizers judges: on a tokenizer.json that is built here from the file's vocabulary and the pre-tokenizer's published
// pattern, because the models' own are not to be had offline. A difference is right only where it agrees with this package.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { PRETOKENIZER_FORMS } from '../dist/esm/model/pretokenizer-patterns.js'
import { createTokenizer } from '../dist/esm/model/tokenizer.js'
import { loosenedBytes, textForPatterns } from '../dist/esm/model/utf8.js'
import { native } from '../dist/esm/native.js'
import { outputFolder, printTable } from './harness.mjs'
import { buildPeer, findLlama, peerTokens } from './llama-tokens.mjs'
import { peerModules } from './peers.mjs'
import { createJudge } from './token-judge.mjs'
import { tokenLines } from './token-lines.mjs'

const { values: options } = parseArgs({
  options: {
    full: { type: 'boolean', default: false },
    'llama-cpp': { type: 'string' },
    seed: { type: 'string', default: '1' },
    only: { type: 'string' },
    show: { type: 'string', default: '3' }
  }
})
const SUPPORTED = ['gpt2', 'llama', 'gemma4']
/** Of a short run: one of each kind. */
const SHORT = ['llama-spm', 'phi-3', 'refact', 'deepseek-llm', 'mpt', 'deepseek-coder']
/** The pre-tokenizers of a short run: those of the architectures that this package runs. */
const SHORT_FORMS = ['default', 'gpt-2', 'starcoder', 'qwen2', 'dbrx', 'llama-bpe', 'gpt-4o', 'tekken', 'deepseek-v3']

const llama = findLlama(options['llama-cpp'])
if (!llama) {
  console.log(`skipped: node-llama-cpp is not in ${peerModules} (npm install in bench/, or PEER_NODE_MODULES)`)
  process.exit(0)
}
mkdirSync(outputFolder, { recursive: true })
const peer = buildPeer(llama)
const models = join(llama.source, 'models')
const rows = []
let wrongLines = 0
let checked = 0

const same = (a, b) => a !== undefined && b !== undefined && a.length === b.length && a.every((id, i) => id === b[i])

/** Compares lines of one vocabulary; each is {bytes, text, special, added, expected}; added: with the tokens of start and end; expected: of a case, instead of asking the peer. */
async function compare(name, metadata, path, lines) {
  const tokenizer = createTokenizer(metadata)
  const asked = lines.filter(({ expected }) => expected === undefined)
  const answers = asked.length > 0 ? await peerTokens(peer, path, asked) : []
  asked.forEach((line, i) => {
    line.expected = answers[i] ?? 'threw'
  })
  let judge
  const counts = { lines: lines.length, equal: 0, right: 0, wrong: 0, threw: 0 }
  const started = performance.now()
  const found = lines.map(({ bytes, text, special, added }) => {
    try {
      return tokenizer.encode(text ?? bytes, { addSpecial: added ?? false, parseSpecial: special ?? false })
    } catch (error) {
      return error
    }
  })
  const seconds = (performance.now() - started) / 1000
  lines.forEach(({ bytes, text, special, expected }, i) => {
    const ids = found[i]
    if (expected === 'threw') counts.threw += Array.isArray(ids) ? 1 : 0
    if (Array.isArray(ids) && (expected === 'threw' || same(ids, expected))) {
      counts.equal += expected === 'threw' ? 0 : 1
      return
    }
    judge ??= createJudge(metadata)
    const verdict =
      text === undefined ? judgeBytes(judge, tokenizer, bytes, ids, special) : judge(text, special ?? false)
    if (Array.isArray(ids) && same(ids, verdict)) counts.right++
    else {
      counts.wrong++
      if (counts.wrong > Number(options.show)) return
      console.log(`${name}: ${JSON.stringify(text ?? bytes.toString('hex'))}`)
      console.log(`  ours ${ids}\n  llama.cpp ${expected}\n  Hugging Face ${verdict ?? '(cannot be asked)'}`)
    }
  })
  rows.push([name, ...Object.values(counts), Math.round(1000 * seconds)])
  wrongLines += counts.wrong
  checked += counts.lines
}

/**
 * Bytes that are no UTF-8 are judged by the text that an encoding makes of them, with U+E000 for surrogates: on that text Hugging Face has to
 * agree with this package, and the ids have to stand for the very bytes.
 */
function judgeBytes(judge, tokenizer, bytes, ids, special) {
  if (!Array.isArray(ids)) return undefined
  const loosened = loosenedBytes(bytes)
  const text = textForPatterns(loosened)
  const ofText = tokenizer.encode(text, { addSpecial: false, parseSpecial: special ?? false })
  const spoken = Buffer.concat(ids.map((id) => tokenizer.tokenBytes(id)))
  return same(judge(text, special ?? false), ofText) && spoken.equals(loosened) ? ids : undefined
}

/** The texts and ids that come with a vocabulary. */
function casesOf(path) {
  const texts = readFileSync(`${path}.inp`, 'utf8').split('\n__ggml_vocab_test__\n')
  const lines = readFileSync(`${path}.out`, 'utf8').split('\n')
  return texts.map((text, i) => ({
    text,
    bytes: Buffer.from(text),
    expected: (lines[i] ?? '').trim().split(/\s+/).filter(Boolean).map(Number)
  }))
}

async function readMetadata(path) {
  const file = await native().openGguf(path)
  const { metadata } = file
  file.close()
  return metadata
}

/** A file's bytes with another `tokenizer.ggml.pre`. */
function relabelled(bytes, name) {
  const text = (value) => {
    const length = Buffer.alloc(8)
    length.writeBigUInt64LE(BigInt(Buffer.byteLength(value)))
    return Buffer.concat([length, Buffer.from(value)])
  }
  const key = Buffer.concat([text('tokenizer.ggml.pre'), Buffer.from([8, 0, 0, 0])])
  const at = bytes.indexOf(key) + key.length
  const end = at + 8 + Number(bytes.readBigUInt64LE(at))
  return Buffer.concat([bytes.subarray(0, at), text(name), bytes.subarray(end)])
}

/** Tokens that are matched whole, to be written into lines. */
const specialsOf = (metadata) =>
  metadata['tokenizer.ggml.tokens']
    .filter((token, id) => [2, 3, 4].includes(metadata['tokenizer.ggml.token_type']?.[id]) && token !== '')
    .slice(0, 300)

const withSpecial = (lines) => lines.map((line, i) => ({ ...line, special: i % 2 === 0, added: i % 4 === 1 }))
const seed = Number(options.seed)
const isWanted = (name) => (options.only ? name === options.only : options.full || SHORT.includes(name))

const unsupported = []
for (const file of readdirSync(models).filter((entry) => /^ggml-vocab-.*\.gguf$/.test(entry))) {
  const name = file.slice('ggml-vocab-'.length, -'.gguf'.length)
  if (!isWanted(name)) continue
  const path = join(models, file)
  const metadata = await readMetadata(path)
  if (!SUPPORTED.includes(metadata['tokenizer.ggml.model'])) {
    unsupported.push(`${name} (${metadata['tokenizer.ggml.model']})`)
    continue
  }
  const hasCases = readdirSync(models).includes(`${file}.out`)
  if (hasCases) await compare(`${name}, its cases`, metadata, path, casesOf(path))
  await compare(name, metadata, path, withSpecial(tokenLines(options.full ? 2400 : 120, seed, specialsOf(metadata))))
}

const template = join(models, 'ggml-vocab-gpt-2.gguf')
const templateBytes = readFileSync(template)
const templateMetadata = await readMetadata(template)
for (const { names, characters } of PRETOKENIZER_FORMS) {
  const [pre] = names
  const isPart = options.only ? options.only === pre : options.full || SHORT_FORMS.includes(pre)
  if (characters || !isPart) continue
  const path = join(outputFolder, `vocabulary-${pre}.gguf`)
  writeFileSync(path, relabelled(templateBytes, pre))
  const metadata = { ...templateMetadata, 'tokenizer.ggml.pre': pre }
  await compare(`gpt-2 as ${pre}`, metadata, path, tokenLines(options.full ? 1200 : 60, seed + 1))
}
printTable(['vocabulary', 'lines', 'equal', 'judged right', 'wrong', 'llama.cpp threw', 'ms'], rows)
if (unsupported.length > 0) console.log(`not supported, left out: ${unsupported.join(', ')}`)
console.log(`${checked} lines: ${wrongLines === 0 ? 'every difference was judged right' : `${wrongLines} wrong`}`)
process.exitCode = wrongLines > 0 || rows.length === 0 ? 1 : 0

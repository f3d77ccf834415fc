// Parsers of the files that this library writes: they may come back damaged, or made by somebody else.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { findFaults } from '../../../dist/esm/checkpoint/consistency.js'
import { LARGEST_MANIFEST, manifestText, parseManifest } from '../../../dist/esm/checkpoint/manifest.js'
import { convertModel, createEngine } from '../../../dist/esm/index.js'
import { segmentPath } from '../../../dist/esm/journal/files.js'
import { encodeRecord, scanRecords } from '../../../dist/esm/journal/frame.js'
import { readJournal } from '../../../dist/esm/journal/reader.js'
import { native } from '../../../dist/esm/native.js'
import { chainStart, nextRecord } from '../../../dist/esm/telemetry/audit-record.js'
import { readAuditLog, verifyAuditLog } from '../../../dist/esm/telemetry/audit-verify.js'
import { comparePolicies } from '../../../dist/esm/tiers/simulation.js'
import { readTrace, TraceWriter, writeTrace } from '../../../dist/esm/tiers/trace.js'
import { embeddedModel } from '../../models.mjs'
import { mutatedBytes, mutatedText, mutatedValue } from '../mutate.mjs'
import { tinyModel } from '../tiny-model.mjs'

/** A folder that goes with the process. */
export function temporaryFolder() {
  const folder = mkdtempSync(join(tmpdir(), 'tiered-moe-fuzz-'))
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
  return folder
}

async function tinyCheckpoint() {
  const folder = temporaryFolder()
  const [from, to] = [join(folder, 'model.gguf'), join(folder, 'checkpoint')]
  writeFileSync(from, (await tinyModel()).bytes)
  await convertModel({ from, to })
  return to
}

/** Characters that a value has as a manifest, at the most: its indents, names and texts. */
function charactersOf(value) {
  let sum = 0
  const left = [[value, 1]]
  for (let next = left.pop(); next; next = left.pop()) {
    const [own, level] = next
    sum += 2 * level
    // A character that has to be escaped takes six.
    if (typeof own === 'string') sum += 6 * own.length
    if (typeof own !== 'object' || own === null) continue
    for (const [name, item] of Object.entries(own)) {
      if (!Array.isArray(own)) sum += 6 * name.length
      left.push([item, level + 1])
    }
  }
  return sum
}

/** A manifest that still has the right checksum, or any text. */
const damagedManifest = (draw, text) => {
  if (draw.chance(0.2)) return mutatedText(draw, [text])
  const value = mutatedValue(draw, JSON.parse(text))
  if (charactersOf(value) > LARGEST_MANIFEST) throw new RangeError('a manifest of this size is refused unread')
  return typeof value === 'object' && value !== null ? manifestText(value) : JSON.stringify(value)
}

export async function manifest() {
  const text = readFileSync(join(await tinyCheckpoint(), 'manifest.json'), 'utf8')
  const layOut = native().expertLayout.bind(native())
  return {
    make: (draw) => damagedManifest(draw, text),
    parse: (input) => (findFaults(parseManifest(input, 'manifest.json'), layOut).length > 0 ? 'faults' : undefined)
  }
}

/** The same with the files beside it, opened as a model: the addon gets places and sizes that its files do not have. */
export async function checkpoint() {
  const folder = await tinyCheckpoint()
  const path = join(folder, 'manifest.json')
  const text = readFileSync(path, 'utf8')
  const engine = await createEngine({ threads: 1 })
  return {
    make: (draw) => damagedManifest(draw, text),
    async parse(input) {
      writeFileSync(path, input)
      const { id } = await engine.loadModel({ model: folder, memory: '64MiB', contextLength: 32 })
      try {
        await engine.generate({ model: id, promptTokens: [1, 2, 3], maxTokens: 2, ignoreEos: true })
      } finally {
        await engine.unloadModel(id)
      }
    }
  }
}

/** The segment of an engine that had two requests. */
async function journalSample() {
  const folder = temporaryFolder()
  const engine = await createEngine({ threads: 1, journal: folder })
  const { id } = await engine.loadModel({ model: embeddedModel })
  for (const prompt of ['ROMEO:', 'JULIET:'])
    await engine.generate({ model: id, prompt, maxTokens: 4, ignoreEos: true })
  await engine.dispose()
  const [name] = readdirSync(folder).filter((own) => own.endsWith('.journal'))
  return readFileSync(join(folder, name))
}

/** Heads of records, each claiming bytes that others lie in: what looks at every claim takes the square of the bytes. */
function claims(draw) {
  const bytes = Buffer.alloc(1 << 18)
  for (let at = 0; at + 12 <= bytes.length; at += 12 + draw.size(24)) {
    bytes.write('f5544d4a', at, 'hex')
    bytes.writeUInt32LE(draw.below(bytes.length - at), at + 4)
  }
  return bytes
}

export async function journal() {
  const sample = await journalSample()
  const records = scanRecords(sample).records.map(({ record }) => record)
  const folder = temporaryFolder()
  return {
    make(draw) {
      if (draw.chance(0.005)) return claims(draw)
      const raw = mutatedBytes(draw, [sample], [Buffer.from('f5544d4a', 'hex')])
      const made = records.map((record) => encodeRecord(draw.chance(0.3) ? mutatedValue(draw, record) : record))
      if (draw.chance(0.3)) made.splice(draw.below(made.length), 1)
      const bytes = draw.chance(0.5) ? Buffer.concat(made) : raw
      return draw.chance(0.2) ? mutatedBytes(draw, [bytes]) : bytes
    },
    async parse(input) {
      const path = segmentPath(folder, 1)
      writeFileSync(path, input)
      const { damage } = await readJournal(folder, input.length % 2 === 0)
      return damage.length > 0 ? 'salvaged' : undefined
    }
  }
}

export async function audit() {
  const path = join(temporaryFolder(), 'audit.jsonl')
  const events = ['run_started', 'model_loaded', 'tier_set_changed', 'run_closed']
  const data = { model: 'a', tiers: ['hot', 'cold'], numbers: { layers: 4, experts: 8 }, list: [1, 2.5, null, 'x'] }
  return {
    make(draw) {
      let state = chainStart
      const lines = Array.from({ length: 1 + draw.below(6) }, (_, i) => {
        const own = draw.chance(0.3) ? mutatedValue(draw, data) : data
        const next = nextRecord(state, i === 0 ? events[0] : draw.pick(events), own, { at: '2026-01-01T00:00:00.000Z' })
        state = next.state
        return next.line
      })
      const text = `${lines.join('\n')}\n`
      return draw.chance(0.7)
        ? mutatedBytes(draw, [Buffer.from(text)], ['\n', '"prev":"', '"seq":'])
        : Buffer.from(text)
    },
    async parse(input) {
      writeFileSync(path, input)
      await readAuditLog(path)
      await verifyAuditLog(path)
    }
  }
}

const traceShape = { layers: 3, experts: 8, slots: 10, policy: 'adaptive', seed: 5, model: 'a' }

function traceWords() {
  const writer = new TraceWriter()
  for (let step = 0; step < 12; step++) {
    writer.step({ sequences: 1, rows: 1, prefillRows: 0 })
    for (let layer = 0; layer < 3; layer++) {
      const first = (step * 3 + layer) % 7
      writer.layer(layer, [layer * 8 + first, layer * 8 + first + 1])
      if (step % 3 === 0) writer.record('prefetch', [layer, layer * 8 + ((first + 2) % 8)])
    }
    if (step === 4) writer.record('pin', [3, 1])
    if (step === 6) writer.record('resize', [8])
    if (step === 8) writer.record('drop', [4])
  }
  return writer.words()
}

/** A trace whose head and checksum are right has words of any kind: the addon replays them. */
export async function trace() {
  const folder = temporaryFolder()
  const path = join(folder, 'sample.trace')
  await writeTrace(path, { ...traceShape, words: traceWords() })
  const sample = readFileSync(path)
  const words = Buffer.from(traceWords().buffer)
  return {
    make(draw) {
      if (draw.chance(0.3)) return { bytes: mutatedBytes(draw, [sample], ['"words":', '"sha256":"']) }
      const bytes = mutatedBytes(draw, [words])
      return {
        trace: { ...traceShape, layers: 1 + draw.size(64), experts: 1 + draw.size(64), words: wordsOf(bytes) },
        slots: 1 + draw.size(64)
      }
    },
    async parse({ bytes, trace: made, slots = 10 }) {
      if (bytes) writeFileSync(path, bytes)
      const read = bytes ? await readTrace(path) : made
      await comparePolicies(read, slots, { mixes: false })
    }
  }
}

const wordsOf = (bytes) => new Uint32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + (bytes.length & ~3)))

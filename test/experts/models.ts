/** Small models, and the same ones with experts of another: what a swap has to be equal to. */
import { join } from 'node:path'
import type { Test } from 'tap'
import { createEngine, type Engine, type EngineOptions } from 'tiered-moe'
import type { TensorEntry } from '../fixtures/gguf.js'
import { type MoeModelOptions, moeModel, writeMoeModel } from '../fixtures/moe-model.js'

/** One expert is larger than a page of KV cache. */
export const shape = { layers: 2, experts: 6, expertsUsed: 3, vocab: 260, contextLength: 64, feedForward: 384 } as const

/** One expert's bytes in a stacked tensor. */
function slice({ data }: TensorEntry, expert: number): Uint8Array {
  const size = data.byteLength / shape.experts
  return new Uint8Array(data.buffer, data.byteOffset + expert * size, size)
}

export interface Graft {
  layer: number
  expert: number
  /** Where its weights come from. */
  seed: number
  fromLayer?: number
  fromExpert?: number
  /** Computed instead. */
  data?: (name: 'gate' | 'up' | 'down') => Uint8Array
}

const made = new Map<string, Map<string, TensorEntry>>()

function tensorsOf(options: MoeModelOptions): Map<string, TensorEntry> {
  const key = JSON.stringify(options)
  const found = made.get(key) ?? new Map(moeModel(options).tensors.map((tensor) => [tensor.name, tensor]))
  made.set(key, found)
  return found
}

/** Writes the model of a seed, with the experts of other seeds' models in some places. */
export function writeGrafted(
  path: string,
  seed: number,
  grafts: readonly Graft[],
  options: MoeModelOptions = {}
): string {
  const all = { ...shape, ...options }
  return writeMoeModel(path, {
    ...all,
    seed,
    editTensor(tensor) {
      const [, layer, part] = /^blk\.(\d+)\.ffn_(gate|up|down)_exps\.weight$/.exec(tensor.name) ?? []
      const own = grafts.filter((graft) => graft.layer === Number(layer))
      if (part === undefined || own.length === 0) return tensor
      const data = new Uint8Array(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength).slice()
      for (const graft of own) {
        const other = tensorsOf({ ...all, seed: graft.seed }).get(
          `blk.${graft.fromLayer ?? graft.layer}.ffn_${part}_exps.weight`
        )!
        const bytes = graft.data?.(part as 'gate') ?? slice(other, graft.fromExpert ?? graft.expert)
        data.set(bytes, graft.expert * bytes.length)
      }
      return { ...tensor, data }
    }
  })
}

/** The floats of an expert's matrix in an F32 model. */
export function floatsOf(seed: number, layer: number, expert: number, part: string): Float32Array {
  const tensor = tensorsOf({ ...shape, seed, type: 'F32' }).get(`blk.${layer}.ffn_${part}_exps.weight`)!
  const bytes = slice(tensor, expert)
  return new Float32Array(bytes.slice().buffer)
}

export async function startEngine(t: Test, options: EngineOptions = {}): Promise<Engine> {
  const engine = await createEngine({ threads: 2, maxBatchTokens: 16, ...options })
  t.teardown(() => engine.dispose())
  return engine
}

export const tokens = Int32Array.from({ length: 40 }, (_, i) => (i * 37 + 11) % 250)
export const requests = [
  { prompt: 'the first', maxTokens: 12, temperature: 0, ignoreEos: true },
  { prompt: 'and another', maxTokens: 14, seed: 5, ignoreEos: true },
  { prompt: 'in the end ', maxTokens: 10, seed: 6, temperature: 1.2, ignoreEos: true }
]

export interface Answers {
  texts: string[]
  logits: Buffer
}

/** What a model says to the requests, and its logits. */
export async function answers(engine: Engine, model: string): Promise<Answers> {
  const texts: string[] = []
  for (const request of requests) texts.push((await engine.generate({ model, ...request })).text)
  const logits = await engine.forward({ model, tokens, logits: 'all' })
  return { texts, logits: Buffer.from(logits.buffer) }
}

/** The same of a file that was never swapped. */
export async function answersOf(t: Test, path: string): Promise<Answers> {
  const engine = await startEngine(t)
  await engine.loadModel({ model: path, id: 'plain' })
  const found = await answers(engine, 'plain')
  await engine.dispose()
  return found
}

export const gguf = (t: Test, name: string): string => join(t.testdirName, `${name}.gguf`)

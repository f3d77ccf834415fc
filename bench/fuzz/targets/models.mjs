// What a model's file says of itself, once the addon has read it; and what callers ask of a model.
import { createEngine, isEngineError } from '../../../dist/esm/index.js'
import { readModel } from '../../../dist/esm/model/index.js'
import { createTokenizer } from '../../../dist/esm/model/tokenizer.js'
import { mutatedValue } from '../mutate.mjs'
import { tinyModel } from '../tiny-model.mjs'

const text = 'ROMEO:\nthe inner 😀 <|endoftext|> \u0000'

/** Metadata of every architecture, with a tokenizer. */
export async function metadata() {
  const kinds = [
    {},
    { architecture: 'qwen3moe' },
    { architecture: 'llama', tied: true },
    { hser: { tiers: { hot: [2, 2], cold: [2, 2] }, k: [1, 1, 2] } }
  ]
  const samples = (await Promise.all(kinds.map((kind) => tinyModel(kind)))).map(({ file }) => {
    const { close: _, ...rest } = file
    return rest
  })
  return {
    make: (draw) => mutatedValue(draw, draw.pick(samples)),
    parse(input) {
      // The addon gives an object with these two; what is in them is the file's.
      const file = { ...(input ?? {}), close() {} }
      if (!Array.isArray(file.tensors) || !isMetadata(file.metadata) || !file.tensors.every(isTensor)) return 'no file'
      const failures = [() => readModel(file), () => tokenized(file.metadata)].map(codeOf)
      return failures.find((code) => code !== undefined)
    }
  }
}

/** What the addon can give: numbers, texts, truths, and lists of these. */
const isMetadata = (value) =>
  typeof value === 'object' &&
  value !== null &&
  !Array.isArray(value) &&
  Object.values(value).every(
    (item) =>
      isScalar(item) || (Array.isArray(item) && item.every((own) => typeof own === typeof item[0] && isScalar(own)))
  )
const isScalar = (value) => ['number', 'string', 'boolean'].includes(typeof value)
const isTensor = (value) =>
  typeof value?.name === 'string' &&
  typeof value.type === 'string' &&
  Number.isInteger(value.bytes) &&
  Array.isArray(value.shape) &&
  value.shape.length >= 1 &&
  value.shape.length <= 4 &&
  value.shape.every((size) => Number.isInteger(size) && size > 0)

function tokenized(raw) {
  const tokenizer = createTokenizer(raw)
  const tokens = tokenizer.encode(text)
  tokenizer.decode(tokens)
}

function codeOf(call) {
  try {
    call()
    return undefined
  } catch (error) {
    if (!isEngineError(error)) throw error
    return error.code
  }
}

/** Arguments of every call that takes an object. Generations are cancelled before they begin, so that a request that is taken costs nothing. */
export async function requests() {
  const engine = await createEngine({ threads: 1 })
  const { id } = await engine.loadModel({})
  const signal = AbortSignal.abort()
  const samples = {
    generate: {
      model: id,
      prompt: 'ROMEO:',
      maxTokens: 2,
      temperature: 0.5,
      topP: 0.9,
      topK: 10,
      seed: 3,
      stop: ['\n'],
      requestId: 'r',
      logprobs: 2
    },
    tokenize: { model: id, text: 'ROMEO:', addSpecialTokens: true },
    forward: { model: id, tokens: [1, 2, 3], logits: 'last' },
    loadModel: { model: 'no such file', id: 'b', contextLength: 32, memory: '1MiB', tierSet: 'all', timeoutMs: 100 },
    setTierSet: { model: id, tierSet: 'all' }
  }
  const methods = Object.keys(samples).filter((method) => typeof engine[method] === 'function')
  return {
    make(draw) {
      const method = draw.pick(methods)
      return { method, request: mutatedValue(draw, samples[method]) }
    },
    async parse({ method, request }) {
      await engine[method](request, { signal })
    }
  }
}

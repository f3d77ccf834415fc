// Child process of bench/engine.mjs: loads one model with this package and prints one JSON line of figures.
//   node bench/measure-own.mjs MODEL PROMPT DECODE THREADS KV_TYPE ISA
// As llama-bench does: random token ids (fixed by a seed), the prompt in one call, then one token a step; here each is sampled too.
import { peakMemory, randomTokens } from './harness.mjs'
import { greedy, openModel, weightBytesPerToken } from './runtime.mjs'

const [path, promptText, decodeText, threadsText, kvType, isa] = process.argv.slice(2)
const [prompt, decode, threads] = [promptText, decodeText, threadsText].map(Number)
const seconds = async (work) => {
  const start = performance.now()
  await work()
  return (performance.now() - start) / 1000
}

let opened
const loadSeconds = await seconds(async () => {
  opened = await openModel(path, { threads, isa, maxBatchTokens: Math.max(prompt, 8) })
})
const { model, plan, cancel } = opened
const tokens = randomTokens(prompt + decode, plan.vocab, 1)
const logitsOut = new Float32Array(plan.vocab)
const step = (sequence, part) =>
  model.step([{ sequence, tokens: part, logits: 'last', logitsOut, sampling: greedy }], cancel)
const create = () => model.createSequence({ kvType, maxTokens: prompt + decode + 8 })
const decodeAll = (sequence) =>
  seconds(async () => {
    for (let i = 0; i < decode; i++) await step(sequence, tokens.subarray(prompt + i, prompt + i + 1))
  })

const scratch = create()
await step(scratch, tokens.slice(0, 8))
await step(scratch, tokens.slice(0, 1))
scratch.dispose()

const shallow = create()
const decode0 = decode / (await decodeAll(shallow))
shallow.dispose()
const deep = create()
const prefill = prompt / (await seconds(() => step(deep, tokens.subarray(0, prompt))))
const decodeDeep = decode / (await decodeAll(deep))
deep.dispose()

const figures = {
  loadSeconds,
  prefill,
  decode0,
  decodeDeep,
  peakBytes: peakMemory(),
  isa: opened.backend.isa,
  weightBytesPerToken: weightBytesPerToken(plan, opened.tensors)
}
opened.dispose()
console.log(JSON.stringify(figures))

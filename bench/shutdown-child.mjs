// A process under load, for bench/shutdown.mjs and its test: several generations at once, one after another, until it is told to end.
// Says "ready" when every worker has a token, the states of the engine, and "accepted", "finished" and "failed" for each request, one per line.
// Arguments: drainMs, workers, maxTokens, [audit log].
import { writeSync } from 'node:fs'
import { createEngine } from '../dist/esm/index.js'

const [drainMs, workers, maxTokens] = process.argv.slice(2, 5).map(Number)
const audit = process.argv[5]
const say = (...words) => writeSync(1, `${words.join(' ')}\n`)

const onTransition = ({ next }) => say('state', next)
const engine = await createEngine({ threads: 2, drainMs, signals: true, onTransition, ...(audit && { audit }) })
const { id: model } = await engine.loadModel()
let begun = 0

async function worker(number) {
  for (let i = 0; ; i++) {
    const requestId = `${number}-${i}`
    let generator
    try {
      generator = engine.createGenerator({
        model,
        prompt: 'ROMEO:',
        seed: i,
        requestId,
        maxTokens,
        ignoreEos: true
      })
    } catch (error) {
      say('refused', requestId, error.code)
      return
    }
    say('accepted', requestId)
    try {
      let tokens = 0
      for await (const item of generator) {
        if (item.finishReason === undefined && tokens++ === 0 && i === 0 && ++begun === workers) say('ready')
        if (item.finishReason !== undefined) say('finished', requestId, item.usage.completionTokens)
      }
    } catch (error) {
      say('failed', requestId, error.code, error.details.tokens?.length ?? 'none')
    }
  }
}

await Promise.all(Array.from({ length: workers }, (_, number) => worker(number)))

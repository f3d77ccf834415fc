// Failures have a code, a category and a suggested action; nothing has to be read out of a message.
import { createEngine, isEngineError } from 'tiered-moe'

const engine = await createEngine()
const { id } = await engine.loadModel()

async function attempt(what, action) {
  try {
    await action()
    console.log(`${what}: no failure`)
  } catch (error) {
    if (!isEngineError(error)) throw error
    console.log(
      `${what}: ${error.code} (${error.category}, ${error.retryable ? 'may be retried' : 'not to be retried'})`
    )
    console.log(`  ${error.message}\n  ${error.details.suggestedAction}`)
  }
}

await attempt('a file that is not there', () => engine.loadModel({ model: 'absent.gguf' }))
await attempt('a model twice', () => engine.loadModel())
await attempt('a bad option', () => engine.generate({ model: id, prompt: 'x', temperature: Number.NaN }))
await attempt('a prompt beyond the context', () => engine.generate({ model: id, prompt: 'word '.repeat(1000) }))
await attempt('a deadline', () => engine.generate({ model: id, prompt: 'x', ignoreEos: true }, { timeoutMs: 1 }))
const abort = new AbortController()
setTimeout(() => abort.abort(), 5)
await attempt('an abort', () => engine.generate({ model: id, prompt: 'x', ignoreEos: true }, { signal: abort.signal }))
await engine.dispose()

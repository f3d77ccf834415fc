// What the groups share: an engine that serves the embedded model, and the text that it has to give before and after every fault.
import { createEngine } from '../../dist/esm/index.js'

export { embedded } from '../../test/fixtures/package.ts'

export const id = 'tiny-shakespeare'
export const request = { model: id, prompt: 'ROMEO:', temperature: 0, maxTokens: 24, ignoreEos: true }
/** The same on the command line. */
export const runArguments = ['-p', 'ROMEO:', '--temperature', '0', '-n', '24', '--ignore-eos']

export async function serving(options = {}, load = {}) {
  const engine = await createEngine({ threads: 1, maxBatchTokens: 64, ...options })
  // What it keeps of requests that have ended is no leak, but memory that is not back.
  await engine.loadModel({ id, contextLength: 256, prefixCache: false, ...load })
  const { text } = await engine.generate(request)
  return { engine, text }
}

/** Whether the engine gives the text still. */
export const stillServes = async ({ engine, text }) => (await engine.generate(request)).text === text

/** The text of `run --json`. */
export const textOf = ({ stdout }) =>
  stdout
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line).text ?? '')
    .join('')

// A program with an isolated engine: prints what there is to know, and ends by itself ("end") or waits to be killed ("wait").
import { createEngine } from 'tiered-moe'

const [, , order] = process.argv
const engine = await createEngine({ threads: 1, isolation: 'process' })
const { id } = await engine.loadModel()
const { text } = await engine.generate({ model: id, prompt: 'O', maxTokens: 3, temperature: 0 })
process.stdout.write(`${JSON.stringify({ pid: engine.workers()[0].pid, text })}\n`)
if (order === 'wait') setInterval(() => {}, 1000)

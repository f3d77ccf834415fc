// Kills a process in the middle of a text, and goes on with the same text in the next one: node examples/recovery.mjs
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createEngine } from 'tiered-moe'

const request = { model: 'tiny-shakespeare', prompt: 'ROMEO:\n', maxTokens: 80, seed: 4, requestId: 'romeo' }
const [journal] = process.argv.slice(2)

if (journal) {
  // The process that will be killed.
  const engine = await createEngine({ journal })
  await engine.loadModel()
  const generator = engine.createGenerator(request)
  await generator.accepted() // on disk: the client may be told
  for await (const item of generator) console.log(JSON.stringify(item.text))
} else {
  const folder = mkdtempSync(join(tmpdir(), 'tiered-moe-recovery-'))
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url), folder], {
    stdio: ['ignore', 'pipe', 'inherit']
  })
  const killed = new Promise((resolve) => child.once('close', resolve))
  let lines = ''
  child.stdout.on('data', (data) => {
    lines += data
    if (lines.split('\n').length > 20) child.kill('SIGKILL')
  })
  await killed
  // The client counts what it got; a line that the kill cut short is none.
  const got = lines
    .split('\n')
    .slice(0, -1)
    .map((line) => JSON.parse(line))
  console.log(`${got.join('')}\n--- killed after ${got.length} tokens ---`)

  const engine = await createEngine({ journal: folder })
  const [{ requestId, state, completionTokens }] = engine.recovered.requests
  console.log(`--- ${requestId} is ${state}, with ${completionTokens} tokens in the journal ---`)
  let text = got.join('')
  for await (const item of await engine.resumeGenerator({ requestId, from: got.length })) {
    process.stdout.write(item.text)
    text += item.text
  }
  await engine.acknowledgeRequest({ requestId })
  const whole = await engine.generate({ ...request, requestId: 'undisturbed' })
  console.log(`\n--- ${text === whole.text ? 'the same text as' : 'DIFFERENT from'} an undisturbed run ---`)
  await engine.dispose()
  rmSync(folder, { recursive: true })
}

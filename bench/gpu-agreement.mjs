// How near the GPU is to the CPU end to end: greedy tokens of the trained model against its trainer's, and the routes of each (token, layer).
//   node bench/gpu-agreement.mjs           f16 and q8_0: the 96 tokens of reference.json, and the routes over the same text
//   node bench/gpu-agreement.mjs --full    over a whole scene as well
// Tokens have to be equal. Routes come from states that a GPU rounds otherwise than a CPU, so near-ties may fall apart: their share is printed.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { createEngine } from '../dist/esm/index.js'
import { environment, printEnvironment, printTable, root, writeReport } from './harness.mjs'
import { sharedFolder } from './models.mjs'

const { values: options } = parseArgs({ options: { full: { type: 'boolean', default: false } } })
const folder = join(sharedFolder, 'models')
if (!existsSync(join(folder, 'reference.json'))) {
  console.log(`skipped: ${folder} has no reference.json (TIERED_MOE_SHARED names the shared folder)`)
  process.exit(process.env.CI ? 1 : 0)
}
const reference = JSON.parse(readFileSync(join(folder, 'reference.json'), 'utf8'))
const scene = readFileSync(join(root, 'models', 'tiny-shakespeare-scene.txt'), 'utf8')

/** Choices that both made, and those of them that name the same experts. */
function compareRoutes({ k, ids }, other) {
  let [decisions, same] = [0, 0]
  for (let at = 0; at < ids.length; at += k, decisions++) {
    const chosen = new Set(other.ids.subarray(at, at + k))
    if (ids.subarray(at, at + k).every((id) => chosen.has(id))) same++
  }
  return { decisions, same }
}

const largest = (logits) => logits.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
const apart = (a, b) => a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0) / largest(b)

const stamp = environment()
printEnvironment(stamp)
const gpu = await createEngine({ backend: 'webgpu' })
const cpu = await createEngine()
console.log(`adapter: ${gpu.backend.device}`)
const rows = []
const report = []
let failed = false
for (const type of ['f16', 'q8_0']) {
  const model = join(folder, `tiny-shakespeare-moe-${type}.gguf`)
  for (const engine of [gpu, cpu]) await engine.loadModel({ model, id: type })
  const { greedy, prompt, ids } = reference
  const request = { model: type, prompt, maxTokens: greedy.length, temperature: 0, ignoreEos: true }
  const { tokens } = await gpu.generate(request)
  const equal = greedy.filter((token, i) => token === tokens[i]).length
  failed ||= equal < greedy.length
  const texts = { reference: Int32Array.from([...ids, ...greedy]) }
  if (options.full) texts.scene = (await gpu.tokenize({ model: type, text: scene })).tokens.slice(0, 4096)
  for (const [name, text] of Object.entries(texts)) {
    const total = { decisions: 0, same: 0, apart: 0 }
    for (let at = 0; at < text.length; at += 256) {
      const forward = {
        model: type,
        tokens: Int32Array.from(text.slice(at, at + 256)),
        logits: 'all',
        captureRouting: true
      }
      const [a, b] = [await gpu.forward(forward), await cpu.forward(forward)]
      const { decisions, same } = compareRoutes(a.routing, b.routing)
      total.decisions += decisions
      total.same += same
      total.apart = Math.max(total.apart, apart(a.logits, b.logits))
    }
    const share = ((100 * total.same) / total.decisions).toFixed(3)
    const greedyText = name === 'reference' ? `${equal} of ${greedy.length}` : '-'
    rows.push([
      type,
      name,
      greedyText,
      `${total.same} of ${total.decisions} (${share} %)`,
      total.apart.toExponential(1)
    ])
    report.push({ type, text: name, greedy: equal, ...total })
  }
  for (const engine of [gpu, cpu]) await engine.unloadModel(type)
}
printTable(['weights', 'text', 'greedy tokens', 'routes as on the CPU', 'logits apart (of the largest)'], rows)
writeReport('gpu-agreement.json', { stamp, device: gpu.backend.device, report })
await Promise.all([gpu.dispose(), cpu.dispose()])
if (failed) {
  console.error('the greedy tokens are not those of reference.json')
  process.exitCode = 1
}

// Pictures of the live page, of a real server with a tiered checkpoint of the embedded model: under load, idle, after experts' files were damaged
// on the disk, and on a phone. Needs Chromium.
//   node scripts/live-page.mjs             writes docs/pictures/live-{load,idle,fault,phone}.png
//   node scripts/live-page.mjs --to FOLDER
import { mkdirSync, mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { convertModel, createEngine } from '../dist/esm/index.js'
import { createServer } from '../dist/esm/server/index.js'
import './test-loader.mjs'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const { values: options } = parseArgs({ options: { to: { type: 'string', default: join(root, 'docs', 'pictures') } } })
const to = resolve(options.to)
const { Browser } = await import('../test/fixtures/chromium.ts')
/** Of 64 experts so many fit beside small KV caches; requests that run at a time, clients that ask again at once, seconds of load before its picture. */
const [keptExperts, concurrency, clients, loadSeconds] = [60, 4, 9, 40]

const work = mkdtempSync(join(tmpdir(), 'tiered-moe-live-'))
process.on('exit', () => rmSync(work, { recursive: true, force: true }))
// Messages name files as the model was named.
process.chdir(work)
const checkpoint = 'checkpoint'
const range = (first, end) => Array.from({ length: end - first }, (_, i) => first + i)
await convertModel({
  from: join(root, 'models', 'tiny-shakespeare-moe-q8_0.gguf'),
  to: checkpoint,
  tiers: [
    { name: 'core', placement: 'hot', experts: range(0, 4) },
    { name: 'usual', placement: 'warm', experts: range(4, 11) },
    { name: 'seldom', placement: 'cold', experts: 'rest' }
  ]
})

/** An engine with the checkpoint and so much memory that `keptExperts` fit. */
async function open() {
  const request = { id: 'tiny-shakespeare', model: checkpoint, contextLength: 256 }
  const whole = await createEngine({ threads: 1 })
  await whole.loadModel(request)
  const { base, arena, experts } = whole.listModels()[0].memory
  await whole.dispose()
  const engine = await createEngine({ threads: 1 })
  await engine.loadModel({ ...request, memory: base + arena + keptExperts * experts.slot })
  return engine
}

const engine = await open()
const server = await createServer(engine, { port: 0, admission: { concurrency } })
await server.listen()
const browser = new Browser(join(work, 'profile'))
const page = await browser.page()

async function shoot(name, { width, height, scale = 1, scheme }) {
  await page.resize(width, height, scale)
  await page.prefer({ 'prefers-color-scheme': scheme })
  await sleep(1500)
  mkdirSync(to, { recursive: true })
  const path = join(to, `live-${name}.png`)
  writeFileSync(path, await page.picture())
  console.log(path)
}

const prompts = ['ROMEO:', 'First Citizen:', 'KING RICHARD III:', 'JULIET:', 'All:', 'DUKE VINCENTIO:']
let loaded = true
async function client(i) {
  for (let turn = 0; loaded; turn++) {
    const body = {
      model: 'tiny-shakespeare',
      prompt: prompts[(i + turn) % prompts.length],
      max_tokens: 100,
      seed: i,
      temperature: 0.9
    }
    const headers = { 'content-type': 'application/json' }
    const answer = await fetch(`${server.url}/v1/completions`, { method: 'POST', headers, body: JSON.stringify(body) })
    await answer.text()
  }
}

/** Has the page generate from what is in its prompt box, to the end. */
async function tryPrompt(prompt, tierSet = '') {
  await page.evaluate(
    `$('prompt').value = ${JSON.stringify(prompt)}; $('tier-set').value = ${JSON.stringify(tierSet)}; $('send').click()`
  )
  await page.until("!$('send').disabled")
}

const wide = { width: 1280, height: 800 }
await page.resize(wide.width, wide.height)
await page.goto(`${server.url}/`)
await page.until("state?.model && $('cell').textContent")
const load = Array.from({ length: clients }, (_, i) => client(i))
await sleep(loadSeconds * 1000)
await tryPrompt('JULIET:\nO Romeo,', 'balanced')
await shoot('load', { ...wide, scheme: 'light' })
await shoot('phone', { width: 360, height: 740, scale: 1.5, scheme: 'dark' })
loaded = false
await Promise.all(load)
await page.resize(wide.width, wide.height)
await sleep(8000)
await page.evaluate("$('heat').focus(); move(2, 5)")
await shoot('idle', { ...wide, scheme: 'dark' })

// What has happened to disks: the files of the cold experts end early.
const seldom = join(checkpoint, 'experts', 'seldom')
for (const name of readdirSync(seldom)) truncateSync(join(seldom, name), 4096)
await tryPrompt('GLOUCESTER:\nNow is the winter of', 'max')
const long = 'And so he spoke. '.repeat(60)
await tryPrompt(long)
await tryPrompt('GLOUCESTER:\nNow is the winter of', 'max')
await sleep(1500)
await shoot('fault', { ...wide, scheme: 'light' })
// That requests failed is what was asked for.
const complaints = page.complaints.filter((text) => !text.includes('"source":"network"'))
for (const complaint of complaints) console.error(complaint)
process.exitCode = complaints.length > 0 ? 1 : 0
await browser.close()
await server.close()
await engine.dispose()

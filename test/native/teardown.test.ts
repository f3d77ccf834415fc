/**
 * Environments end at any moment: worker threads that are terminated in the middle of native work, scripts that simply stop. Nothing waits,
 * nothing crashes, and what the addon held in an environment that is gone is given back.
 */
import { spawn } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { createEngine } from 'tiered-moe'
import { builtUrl, embedded } from '../fixtures/package.js'

const model = embedded
const entry = JSON.stringify(builtUrl('index.js'))
const kernels = JSON.stringify(builtUrl('kernels.js'))
/** From the last line to the end of the process, far more than it takes on a busy machine, where it is within a second; sanitizers look for leaks then. */
const ending = process.env.TIERED_MOE_SANITIZED ? 30_000 : 10_000

interface Ended {
  code: number | null
  signal: string | null
  /** Milliseconds from the script's last line to the end of its process. */
  after: number
  output: string
}

/** Runs a script whose last line prints `end`. */
function run(lines: string[], flags: string[] = []): Promise<Ended> {
  return new Promise((resolve) => {
    const script = [...lines, "process.stdout.write('end')"].join('\n')
    const child = spawn(process.execPath, [...flags, '--input-type=module', '-e', script], { stdio: 'pipe' })
    let output = ''
    let last = performance.now()
    child.stdout.on('data', (chunk) => {
      output += chunk
      if (String(chunk).includes('end')) last = performance.now()
    })
    child.stderr.on('data', (chunk) => {
      output += chunk
    })
    child.on('close', (code, signal) => resolve({ code, signal, after: performance.now() - last, output }))
  })
}

const load = [
  `import { createEngine } from ${entry}`,
  'const engine = await createEngine({ threads: 2 })',
  `await engine.loadModel({ model: ${JSON.stringify(model)}, id: 'm' })`
]
const endless = "engine.createGenerator({ model: 'm', prompt: 'ROMEO:', maxTokens: 200, ignoreEos: true })"

t.test('a script ends by itself', async (t) => {
  const scripts: Record<string, string[]> = {
    'after it only loaded the addon': [`import { createEngine } from ${entry}`, 'void createEngine'],
    'with a model and no dispose': load,
    'with dispose': [...load, 'await engine.dispose()'],
    'mid-generation': [...load, `const g = ${endless}`, 'await g.next()', 'await g.next()'],
    'with a kernel backend': [
      `import { openBackend } from ${kernels}`,
      "const backend = openBackend('cpu', { threads: 3 })",
      'await backend.rmsNorm({ x: new Float32Array(8), weight: new Float32Array(8), epsilon: 1e-5 })'
    ],
    'by process.exit() in the middle of work': [
      ...load,
      `const g = ${endless}`,
      'void g.next().catch(() => {})',
      'setTimeout(() => process.exit(0), 2)',
      "for (let i = 0; i < 50; i++) void engine.generate({ model: 'm', prompt: 'a' }).catch(() => {})"
    ]
  }
  for (const [name, lines] of Object.entries(scripts)) {
    const { code, signal, after, output } = await run(lines)
    t.equal(code, 0, `${name}: ${signal ?? output}`)
    t.ok(after < ending, `${name}: ${Math.round(after)} ms`)
  }
})

/** Without what tap has loaded into this process, which takes a second. */
const newWorker = (script: string) =>
  new Worker(new URL(`data:text/javascript,${encodeURIComponent(script)}`), { execArgv: [] })

/** Starts a worker on a script and resolves when it says something. */
function startWorker(lines: string[]): Promise<Worker> {
  const script = ["import { parentPort } from 'node:worker_threads'", ...lines].join('\n')
  const worker = newWorker(script)
  return new Promise((resolve, reject) => {
    worker.once('message', () => resolve(worker))
    worker.once('error', reject)
  })
}

const inWorker = (more: string[]) => [...load, ...more]

t.test('the addon loads and tears down in worker threads', async (t) => {
  const engine = await createEngine({ threads: 1 })
  const before = engine.counters()
  const greedy = { model: 'm', prompt: 'ROMEO:', maxTokens: 10, temperature: 0 } as const
  await engine.loadModel({ model, id: 'm' })
  const { text } = await engine.generate(greedy)
  const lines = inWorker([
    `parentPort.postMessage(await engine.generate(${JSON.stringify(greedy)}).then((r) => r.text))`
  ])
  const texts = await Promise.all(
    Array.from({ length: 3 }, () => {
      const script = ["import { parentPort } from 'node:worker_threads'", ...lines].join('\n')
      const worker = newWorker(script)
      return new Promise((resolve, reject) => {
        let said: unknown
        worker.on('message', (message) => {
          said = message
        })
        worker.on('error', reject)
        worker.on('exit', () => resolve(said))
      })
    })
  )
  t.same(texts, [text, text, text], 'three environments at once, each ending by itself')
  await engine.unloadModel('m')
  t.same(await settled(engine, before), before, 'the counters are back')
  await engine.dispose()
})

/** Counters once no job runs: work of an environment that is gone ends soon after it. */
async function settled(engine: Awaited<ReturnType<typeof createEngine>>, wanted: unknown) {
  for (let i = 0; i < 1000 && JSON.stringify(engine.counters()) !== JSON.stringify(wanted); i++) await sleep(10)
  return engine.counters()
}

t.test('workers terminated in the middle of native work', async (t) => {
  const engine = await createEngine({ threads: 1 })
  const before = engine.counters()
  const scripts = {
    loading: [
      `import { createEngine } from ${entry}`,
      'const engine = await createEngine({ threads: 2 })',
      `void engine.loadModel({ model: ${JSON.stringify(model)}, id: 'm' }, { onProgress() {} }).catch(() => {})`,
      'parentPort.postMessage(1)'
    ],
    generating: inWorker([
      `const g = ${endless}`,
      'void g.next()',
      'parentPort.postMessage(1)',
      'for await (const item of g) void item'
    ]),
    batch: inWorker([
      "for (let i = 0; i < 8; i++) void engine.generate({ model: 'm', prompt: 'To be', maxTokens: 200, ignoreEos: true })",
      'parentPort.postMessage(1)'
    ])
  }
  for (const [name, lines] of Object.entries(scripts)) {
    for (let i = 0; i < 5; i++) {
      const worker = await startWorker(lines)
      await sleep(i * 3)
      const started = performance.now()
      await worker.terminate()
      t.ok(performance.now() - started < ending, `${name}, ${i * 3} ms in`)
    }
  }
  t.same(await settled(engine, before), before, 'the counters are back')
  await engine.dispose()
})

t.test('what is dropped without dispose is collected', async (t) => {
  const { code, output } = await run(
    [
      `import { native } from ${JSON.stringify(builtUrl('native.js'))}`,
      'const addon = native()',
      'const before = JSON.stringify(addon.counters())',
      'await (async () => {',
      `  for (let i = 0; i < 20; i++) await addon.openGguf(${JSON.stringify(model)})`,
      '  for (let i = 0; i < 5; i++) addon.createBackend({ threads: 2, isa: "auto" })',
      '})()',
      'for (let i = 0; i < 100 && JSON.stringify(addon.counters()) !== before; i++) {',
      '  globalThis.gc()',
      '  await new Promise((resolve) => setTimeout(resolve, 10))',
      '}',
      'if (JSON.stringify(addon.counters()) !== before) throw new Error(JSON.stringify(addon.counters()))'
    ],
    ['--expose-gc']
  )
  t.equal(code, 0, output)
})

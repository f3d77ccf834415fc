/** A layer in a browser: headless Chromium loads the built library and its shaders as they are, packed weights by HTTP, and computes. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { openBackend } from 'tiered-moe/kernels'
import { chromium, chromiumFlags } from '../fixtures/chromium.js'
import { root } from '../fixtures/package.js'
import { firstOff } from '../kernels/close.js'
import { goldenUnits } from '../kernels/tolerance.js'
import { floats, stream, weights } from '../kernels/values.js'
import { absent, skipHere } from './adapter.js'

/** With WebGPU, on a GPU in software where there is no other. */
const flags = [...chromiumFlags, '--enable-unsafe-webgpu', '--enable-features=Vulkan', '--ignore-gpu-blocklist']

type Bodies = Record<string, Uint8Array | string>
interface Answer {
  device?: string
  ids: number[]
  weights: number[]
  out: number[]
  refused: string[]
  failure?: string
  message?: string
}

/** Serves the library, the page and `bodies`, has Chromium open the page, and gives back what it posts. */
async function onPage(test: Test, bodies: Bodies): Promise<Answer> {
  const pages: Bodies = {
    '/': '<!doctype html><script type="module" src="/page.js"></script>',
    '/page.js': readFileSync(join(root, 'test/webgpu/page.mjs'), 'utf8'),
    ...bodies
  }
  let answer: (result: Answer) => void = () => {}
  const answered = new Promise<Answer>((resolve) => {
    answer = resolve
  })
  const server = createServer(async (request, response) => {
    const url = request.url ?? '/'
    if (url === '/result') answer(JSON.parse(await text(request)) as Answer)
    const library = /^\/dist\/([\w/-]+\.js)$/.exec(url)?.[1]
    const path = library && join(root, 'dist/esm', library)
    const body = path && existsSync(path) ? readFileSync(path) : pages[url]
    const type = url === '/' ? 'text/html' : url.endsWith('.js') ? 'text/javascript' : 'application/octet-stream'
    response.writeHead(body === undefined ? 404 : 200, { 'content-type': type }).end(body)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const browser = spawn(chromium!, [...flags, `--user-data-dir=${test.testdir()}`, url], {
    stdio: ['ignore', 'ignore', 'pipe']
  })
  const said = text(browser.stderr)
  const ended = once(browser, 'exit').then(async ([status]) => {
    throw new Error(`Chromium ended with ${status} before the page had posted: ${(await said).slice(-2000)}`)
  })
  const late = setTimeout(() => browser.kill(), 60_000)
  try {
    return await Promise.race([answered, ended])
  } finally {
    clearTimeout(late)
    browser.kill()
    await ended.catch(() => {})
    server.closeAllConnections()
    server.close()
  }
}

t.test('route, dispatch, expert matmul and combine on a page', async (test) => {
  if (!chromium) return skipHere(test, 'Chromium is not installed')
  const cpu = openBackend('cpu')
  test.teardown(() => cpu.dispose())
  const [tokens, width, hidden, experts, k] = [5, 64, 96, 8, 2]
  const next = stream('a layer on a page')
  const states = floats(tokens * width, next)
  const positions = Uint32Array.from({ length: tokens }, (_, i) => i)
  const { router, routerExponent } = cpu.packRouter(floats(experts * width, next, 'normal', 0.2))
  const matrix = (rows: number, columns: number) => cpu.pack(weights('Q4_0', rows, columns, next, experts), experts)
  const packed = { gate: matrix(hidden, width), up: matrix(hidden, width), down: matrix(width, hidden) }

  const route = cpu.sync.route({ states, router, routerExponent, experts, k, positions })
  const { offsets, slots, rows } = cpu.sync.dispatch({ ids: route.ids, k, experts })
  const values = cpu.sync.expertMatmul({ x: states, k, offsets, slots, ...packed })
  const out = cpu.sync.combine({ values, ...route, rows, k, experts, width })

  const bytes = (array: ArrayBufferView) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
  const shapes = Object.entries(packed).map(([name, { data, ...shape }]) => [name, shape])
  const layer = { experts, k, width, routerExponent, matrices: Object.fromEntries(shapes) }
  const got = await onPage(test, {
    '/layer.json': JSON.stringify(layer),
    '/layer/states': bytes(states),
    '/layer/positions': bytes(positions),
    '/layer/router': bytes(router),
    ...Object.fromEntries(Object.entries(packed).map(([name, { data }]) => [`/layer/${name}`, data]))
  })
  if (got.failure && absent.includes(got.failure)) return skipHere(test, `Chromium has no adapter: ${got.message}`)
  test.equal(got.failure, undefined, got.message ?? 'nothing failed')
  test.comment(`adapter: ${got.device}`)
  test.same(got.ids, [...route.ids], 'the same experts')
  const own = { weights: Float32Array.from(got.weights), out: Float32Array.from(got.out) }
  test.equal(firstOff({ weights: own.weights }, { weights: route.weights }, goldenUnits.route), undefined)
  test.equal(firstOff({ out: own.out }, { out }, goldenUnits.expertMatmul), undefined)
  test.same(got.refused, ['BACKEND_UNAVAILABLE', 'VALIDATION_ERROR', 'VALIDATION_ERROR', 'GPU_DEVICE_LOST'])
})

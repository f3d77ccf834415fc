/** The live page in headless Chromium, from a real server: what it shows is what the engine has, by keyboard, on a phone, in both schemes. */
import { mkdirSync, readdirSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { convertModel, createEngine, type Engine } from 'tiered-moe'
import { createServer, type Server } from 'tiered-moe/server'
import { Browser, chromium, type Page } from '../fixtures/chromium.js'
import { embedded } from '../fixtures/package.js'
import { ask, failure, sha256 } from './setting.js'

const folder = join(t.testdir(), 'tiered')
const [layers, experts] = [4, 16]
const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i)
/** Says what nobody else may read. */
const secret = 'the abbot has buried it under the third elm'
let engine: Engine
let server: Server

const get = (path: string) => ask(server.url + path)
const complete = (fields: object) =>
  ask(`${server.url}/v1/completions`, { model: 'tiny', max_tokens: 12, temperature: 0, ...fields })

t.before(async () => {
  const tiers = [
    { name: 'core', placement: 'hot' as const, experts: range(0, 4) },
    { name: 'usual', placement: 'warm' as const, experts: range(4, 10) },
    { name: 'seldom', placement: 'cold' as const, experts: 'rest' as const }
  ]
  await convertModel({ from: embedded, to: folder, tiers })
  const request = { id: 'tiny', model: folder, contextLength: 128 }
  const whole = await createEngine({ threads: 1 })
  await whole.loadModel(request)
  const { base, arena, experts } = whole.listModels()[0]!.memory
  await whole.dispose()
  engine = await createEngine({ threads: 1 })
  await engine.loadModel({ ...request, memory: base + arena + 36 * experts.slot })
  server = await createServer(engine, { port: 0 })
  await server.listen()
  t.teardown(async () => {
    await server.close()
    await engine.dispose()
  })
})

t.test('the data are what the engine has, and nothing that users wrote', async (t) => {
  const expected = await engine.generate({ model: 'tiny', prompt: 'ROMEO:', maxTokens: 12, temperature: 0 })
  t.same((await complete({ prompt: 'ROMEO:' })).body.choices[0].text, expected.text)
  const refused = await complete({ prompt: secret.repeat(9) })
  t.same(failure(refused), [400, 'CONTEXT_LENGTH_EXCEEDED'])
  await complete({ prompt: secret, stop: [secret], temperature: secret })

  const text = await (await fetch(`${server.url}/live/state`)).text()
  t.notMatch(text, /abbot|elm/)
  const state = JSON.parse(text)
  t.equal(state.state, engine.state)
  t.equal(state.queue.concurrency, 10)
  t.equal(state.errors.length, 2)
  const [bad, long] = state.errors
  t.match(bad, { code: 'VALIDATION_ERROR', http_status: 400, count: 1, severity: 'recoverable' })
  t.match(long, { code: 'CONTEXT_LENGTH_EXCEEDED', count: 1, details: { limit: 128 } })
  t.ok(long.suggested_action.length > 20)
  const [model] = state.models
  const view = engine.placement('tiny')
  t.match(model, { id: 'tiny', tokens: 24, used_bytes: view.usedBytes, budget_bytes: view.budgetBytes })
  t.same(
    model.tiers.map(({ name }: { name: string }) => name),
    ['core', 'usual', 'seldom']
  )
  t.same(model.tiers[0].now.hot, view.tiers[0]!.now.hot)
  t.equal(model.cache.misses, engine.modelStats('tiny').experts!.misses)

  // Names that nobody has loaded are one failure, and long ones are cut.
  for (let i = 0; i < 30; i++) t.equal(failure(await ask(`${server.url}/v1/models/made-up-${i}`))[0], 404)
  await complete({ ['x'.repeat(5000)]: 1 })
  const { errors } = (await get('/live/state')).body
  t.same(
    errors.map(({ code, count }: { code: string; count: number }) => [code, count]),
    [
      ['VALIDATION_ERROR', 2],
      ['MODEL_NOT_LOADED', 30],
      ['CONTEXT_LENGTH_EXCEEDED', 1]
    ]
  )
  t.ok(errors[0].message.length <= 1000)

  const frame = Buffer.from(await (await fetch(`${server.url}/live/experts?model=tiny`)).arrayBuffer())
  const count = layers * experts
  t.same([frame.readUInt16LE(0), frame.readUInt16LE(2), frame.length], [layers, experts, 8 + 11 * count])
  const { use } = engine.modelStats('tiny')
  for (let i = 0; i < count; i++) {
    const { tier, pinned } = view.expert(Math.floor(i / experts), i % experts)
    const found = [frame.readDoubleLE(8 + 8 * i), frame[8 + 8 * count + i], frame[8 + 9 * count + i]! & 1]
    if (found.join() !== [use.rows[i], view.where[i], Number(pinned)].join()) t.fail(`expert ${i}: ${found}`)
    if (view.tiers[frame[8 + 10 * count + i]!]?.name !== tier) t.fail(`tier of expert ${i}`)
  }
  t.equal(failure(await get('/live/experts?model=none'))[1], 'MODEL_NOT_LOADED')
  t.equal(failure(await get('/live/experts'))[1], 'VALIDATION_ERROR')
})

t.test('the page may run and reach what is in it, and nothing else', async (t) => {
  const answer = await fetch(`${server.url}/`)
  const text = await answer.text()
  const policy = answer.headers.get('content-security-policy')!
  for (const name of ['script', 'style']) {
    const parts = text.split(new RegExp(`</?${name}>`))
    t.equal(parts.length, 3, `one ${name}`)
    t.match(policy, `${name}-src 'sha256-${Buffer.from(sha256(parts[1]!), 'hex').toString('base64')}'`)
  }
  t.match(policy, "default-src 'none'")
  t.notMatch(policy, /unsafe|\*/)
  t.notMatch(text.replaceAll('http://www.w3.org/2000/svg', ''), /https?:|\/\/\w+\.|@import|url\(/)
})

/** Text on the page whose contrast with what is behind it is below WCAG's AA: 4.5, or 3 where it is large. */
const lowContrast = `(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number)
  const light = (colour) => {
    const [r, g, b] = channels(colour).map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const low = []
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility() || element.closest('script, :disabled')) continue
    let behind = element
    while (channels(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement
    const { color, fontSize, fontWeight } = getComputedStyle(element)
    const [a, b] = [light(color), light(getComputedStyle(behind).backgroundColor)].sort((x, y) => y - x)
    const large = parseFloat(fontSize) >= 24 || (parseFloat(fontSize) >= 18.6 && fontWeight >= 700)
    if ((a + 0.05) / (b + 0.05) < (large ? 3 : 4.5)) low.push(walker.currentNode.textContent.trim())
  }
  return low
})()`

const skip = chromium || process.env.CI ? false : 'Chromium is not installed (Debian: apt-get install chromium)'
t.test('in a browser', { skip }, async (t) => {
  const profile = join(t.testdir(), 'profile')
  mkdirSync(profile)
  const browser = new Browser(profile)
  t.teardown(() => browser.close())
  const page = await browser.page()
  await page.resize(1280, 800)
  await page.goto(`${server.url}/`)
  await page.until("state?.model && $('cell').textContent")
  const shown = (id: string) => page.evaluate<string>(`$('${id}').textContent`)

  await t.test('shows tiers, errors and what to do', async (t) => {
    t.equal(await shown('state'), 'active')
    t.equal(await page.evaluate("$('tiers').children.length"), 3)
    t.match(await shown('tiers'), /core.*4 hot|16 hot/)
    const errors = await shown('errors')
    for (const error of (await get('/live/state')).body.errors) {
      t.match(errors, error.code)
      t.match(errors, `What to do: ${error.suggested_action}`)
    }
  })

  await t.test('by keyboard alone', (t) => byKeyboard(t, page))

  await t.test('an expert that the disk has lost', async (t) => {
    const files = join(folder, 'experts', 'seldom')
    for (const name of readdirSync(files)) truncateSync(join(files, name), 0)
    await page.evaluate(
      "$('prompt').value = 'Now is the winter of our discontent'; $('tier-set').value = 'max'; $('send').click()"
    )
    await page.until("$('outcome').className.includes('bad')")
    t.match(await shown('outcome'), /^EXPERT_UNAVAILABLE: .*What to do: Check the disk/)
    await page.until("$('errors').textContent.includes('EXPERT_UNAVAILABLE')")
    await page.until('frame.flags.some((mark) => mark & flags.unavailable)')
    t.match(await shown('tiers'), /unavailable/)
  })

  await t.test('in both schemes every text can be read', async (t) => {
    for (const scheme of ['light', 'dark']) {
      await page.prefer({ 'prefers-color-scheme': scheme, 'prefers-reduced-motion': 'reduce' })
      t.same(await page.evaluate(lowContrast), [], scheme)
    }
    const moving =
      "[...document.querySelectorAll('*')].filter((e) => parseFloat(getComputedStyle(e).transitionDuration) > 0).length"
    t.equal(await page.evaluate(moving), 0, 'and nothing moves where that is not wanted')
  })

  await t.test('on a phone nothing is wider than the screen', async (t) => {
    await page.resize(360, 740, 2)
    t.equal(await page.evaluate('document.documentElement.scrollWidth'), 360)
    const small = `[...document.querySelectorAll('button, select, textarea, input:not([type=radio])')]
      .filter((e) => e.checkVisibility() && (e.getBoundingClientRect().height < 32 || e.getBoundingClientRect().right > 360)).map((e) => e.id)`
    t.same(await page.evaluate(small), [])
  })

  await t.test('where there are keys', (t) => withKeys(t, page))

  await t.test('workers, and one that was killed', (t) => withWorker(t, page))

  t.same(
    page.complaints.filter((text) => !text.includes('"source":"network"')),
    [],
    'the console has nothing to say'
  )
  const foreign = page.requests.filter((url) => !/^(data:|http:\/\/127\.0\.0\.1:\d+\/)/.test(url))
  t.same(foreign, [], 'and nothing was asked of anybody else')
})

async function byKeyboard(t: Test, page: Page): Promise<void> {
  const shown = (id: string) => page.evaluate<string>(`$('${id}').textContent`)
  const named = "['id', 'value', 'className', 'tagName'].map((key) => document.activeElement[key]).find(Boolean)"
  const order: string[] = []
  await page.evaluate('document.activeElement.blur()')
  for (let i = 0; i < 16; i++) {
    await page.press('Tab')
    order.push(await page.evaluate<string>(named))
  }
  const wanted = ['skip', 'pause', 'all', 'map', 'heat', 'prompt', 'tier-set', 'most', 'temperature', 'send', 'text']
  // Each error opens.
  const others = order.filter((name) => name !== 'SUMMARY')
  t.same(others.slice(0, wanted.length), wanted, 'Tab goes through everything in the order of the page')

  await page.evaluate("$('heat').focus()")
  for (const key of ['ArrowDown', 'ArrowDown', 'ArrowDown', 'End', 'ArrowLeft', 'ArrowUp']) await page.press(key)
  const { tier, now } = engine.placement('tiny').expert(1, 14)
  const rows = engine.modelStats('tiny').use.rows[experts + 14]
  t.match(await shown('said'), `Layer 1, expert 14: ${now}, of tier ${tier} · ${rows} token`)

  await page.evaluate("document.querySelector('[value=map]').focus()")
  await page.press('ArrowRight')
  t.equal(await page.evaluate("$('table').checkVisibility() && !$('map').checkVisibility()"), true)
  t.equal(await page.evaluate("$('layers-body').rows.length"), layers)
  t.equal(await shown('layer-caption'), 'Experts of layer 1', 'the layer at which the map was')
  const row = await page.evaluate<string[]>("[...$('layer-body').rows[14].cells].map((cell) => cell.textContent)")
  t.same(row.slice(0, 4), ['14', tier, now, `${rows}`])
  await page.press('ArrowLeft')

  const paused = () => page.evaluate("$('pause').getAttribute('aria-pressed')")
  await page.evaluate("$('pause').focus()")
  await page.press(' ')
  t.equal(await paused(), 'true')
  const before = await page.evaluate<number>('state.seconds')
  await page.evaluate('new Promise((resolve) => setTimeout(resolve, 1200))')
  t.equal(await page.evaluate('state.seconds'), before, 'a page that is paused asks nothing')
  await page.press(' ')
  t.equal(await paused(), 'false')

  const prompt = 'Second Murderer:'
  const expected = await engine.generate({ model: 'tiny', prompt, maxTokens: 20, temperature: 0, tierSet: 'balanced' })
  await page.evaluate(
    "$('tier-set').value = 'balanced'; $('most').value = 20; $('temperature').value = 0; $('prompt').select(); $('prompt').focus()"
  )
  await page.type(prompt)
  await page.press('Enter', 2)
  await page.until("$('outcome').textContent.includes('Ended by')")
  t.equal(await shown('text'), prompt + expected.text)
  t.match(await shown('outcome'), /^20 tokens, the first after .* a second\. Ended by: length/)
}

/** The page and its data from a server of its own, which asks for keys. */
async function withKeys(t: Test, page: Page): Promise<void> {
  const [boss, other] = ['correct-horse', 'battery-staple']
  const keys = [
    { id: 'boss', sha256: sha256(boss), admin: true },
    { id: 'other', sha256: sha256(other) }
  ]
  const locked = await createServer(engine, { port: 0, keys, drainMs: 0 })
  t.teardown(() => locked.close())
  await locked.listen()
  for (const path of ['/live/state', '/live/experts?model=tiny']) {
    t.same(failure(await ask(locked.url + path)), [401, 'UNAUTHORIZED'])
    t.same(failure(await ask(locked.url + path, undefined, { key: other })), [403, 'FORBIDDEN'])
    t.equal((await ask(locked.url + path, undefined, { key: boss })).status, 200)
  }
  await page.goto(`${locked.url}/`)
  const unlock = async (key: string) => {
    await page.until("document.activeElement.id === 'key'")
    await page.type(key)
    await page.press('Enter')
  }
  await unlock(other)
  await page.until("$('asked').textContent.includes('admin')")
  await page.evaluate("$('key').focus()")
  await unlock(boss)
  await page.until("$('state').textContent === 'active' && !$('unlock').checkVisibility()")
  t.match(await page.evaluate("$('shape').textContent"), '4 layers × 16')
  const kept =
    'JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href, document.body.outerHTML])'
  t.notMatch(await page.evaluate(kept), boss, 'the key is in no storage, address or element')
}

/** An engine in a process of its own, which is killed. */
async function withWorker(t: Test, page: Page): Promise<void> {
  const apart = await createEngine({ threads: 1, isolation: { mode: 'process', restartDelayBaseMs: 10 } })
  t.teardown(() => apart.dispose())
  await apart.loadModel({ id: 'tiny', contextLength: 64 })
  const around = await createServer(apart, { port: 0, drainMs: 0 })
  t.teardown(() => around.close())
  await around.listen()
  await page.goto(`${around.url}/`)
  const { pid } = apart.workers()[0]!
  await page.until(`$('workers-list').textContent.includes('0: ready 0 streams · 0 restarts · process ${pid}')`)
  t.equal(await page.evaluate("$('shape').textContent"), '4 layers × 16')
  process.kill(pid!, 'SIGKILL')
  await page.until("/^0: ready .*1 restart .*ended .* ago by SIGKILL$/.test($('workers-list').textContent)")
  await page.until("$('errors').textContent.includes('WORKER_CRASHED')")
}

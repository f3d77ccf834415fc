/** The price list of a hierarchical model: its figures are those of the engine's own calls. */
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createEngine } from 'tiered-moe'
import { writeMoeModel } from '../fixtures/moe-model.js'
import { command, notBuilt } from './command.js'

const skip =
  notBuilt || (existsSync('build/Release/tiered_moe.node') || process.env.TIERED_MOE_ADDON ? false : 'no addon')
const hser = { tiers: { hot: [2], warm: [4, 2], cold: [3, 3] }, k: [1, 1, 2] as [number, number, number] }
const TEXT = 'The price of a thing is what is given for it, here: memory, time, and a little of the truth.\n'.repeat(4)

interface List {
  tokens: number
  prices: {
    names: string[]
    tiers: string[]
    experts: number
    perplexity: number
    hitRate: number
    lateRate: number
    p50: number
    p99: number
    bytesPerToken: number
  }[]
}

t.test('one line per TierSet, as measured by hand', { skip }, async (t) => {
  const dir = t.testdir({ 'text.txt': TEXT })
  const model = writeMoeModel(join(dir, 'hser.gguf'), { hser, type: 'Q8_0' })
  const args = ['price', model, '--text', join(dir, 'text.txt'), '--tokens', '90', '--decode', '6', '--threads', '2']
  const { code, stdout, stderr } = await command([...args, '--json'])
  t.equal(code, 0, stderr)
  const list = JSON.parse(stdout) as List
  t.equal(list.tokens, 90)
  t.same(
    list.prices.map(({ names, tiers, experts }) => ({ names, tiers, experts })),
    [
      { names: ['fast'], tiers: ['hot'], experts: 4 },
      { names: ['balanced'], tiers: ['hot', 'warm'], experts: 16 },
      { names: ['deep', 'max'], tiers: ['hot', 'warm', 'cold'], experts: 28 }
    ]
  )
  const engine = await createEngine({ threads: 1 })
  try {
    const { id, descriptor } = await engine.loadModel({ model })
    const tokens = (await engine.tokenize({ model: id, text: TEXT })).tokens.slice(0, 90)
    for (const { tiers, perplexity, hitRate, lateRate, p50, p99, bytesPerToken } of list.prices) {
      const logits = await engine.forward({ model: id, tokens, logits: 'all', tierSet: tiers })
      let loss = 0
      for (let at = 0; at + 1 < tokens.length; at++) {
        const row = Array.from(logits.subarray(at * descriptor.vocab, (at + 1) * descriptor.vocab))
        const most = Math.max(...row)
        const sum = row.reduce((total, value) => total + Math.exp(value - most), 0)
        loss += Math.log(sum) + most - row[tokens[at + 1]!]!
      }
      t.ok(Math.abs(perplexity - Math.exp(loss / (tokens.length - 1))) < 1e-3 * perplexity, `${tiers}: ${perplexity}`)
      t.ok(p50 > 0 && p99 >= p50)
      t.same([hitRate, lateRate, bytesPerToken], [1, 0, 0], 'everything is in memory')
    }
    const whole = await engine.perplexity({ model: id, tokens, window: 1000 })
    t.equal(whole.tokens, 89)
    t.equal(whole.perplexity, list.prices[2]!.perplexity)
    const windows = await engine.perplexity({ model: id, text: TEXT.slice(0, 100), window: 7 })
    t.ok(windows.tokens < 100 && windows.perplexity > 1)
  } finally {
    await engine.dispose()
  }
  const table = await command(args)
  t.match(table.stdout, /TierSet +tiers +experts +perplexity +hit rate +late +p50 +p99 +read per token/)
  t.match(table.stdout, /deep, max +hot \+ warm \+ cold +28 of 28 +\d+\.\d\d +100\.0 % +0\.0 % /)
})

t.test('tiers of a plain model, from a file', { skip }, async (t) => {
  const tiers = 'tiers: [{name: a, placement: hot, experts: [0, 1, 2]}, {name: b, placement: cold, experts: rest}]'
  const dir = t.testdir({ 'tiers.yaml': tiers, 'text.txt': TEXT })
  const model = writeMoeModel(join(dir, 'flat.gguf'))
  const args = ['price', model, '--tiers', join(dir, 'tiers.yaml'), '--text', join(dir, 'text.txt'), '--decode', '2']
  const { code, stdout, stderr } = await command([...args, '--json'])
  t.equal(code, 0, stderr)
  t.same(
    (JSON.parse(stdout) as List).prices.map(({ names, tiers, experts }) => ({ names, tiers, experts })),
    [
      { names: ['fast', 'balanced'], tiers: ['a'], experts: 6 },
      { names: ['deep', 'max'], tiers: ['a', 'b'], experts: 16 }
    ]
  )
})

t.test('only the TierSet that --tier-set names', { skip }, async (t) => {
  const dir = t.testdir({ 'text.txt': TEXT })
  const model = writeMoeModel(join(dir, 'hser.gguf'), { hser })
  const price = async (tierSet: string) => {
    const run = ['price', model, '--text', join(dir, 'text.txt'), '--decode', '2', '--json', '--tier-set', tierSet]
    const { code, stdout, stderr } = await command(run)
    t.equal(code, 0, stderr)
    return (JSON.parse(stdout) as List).prices.map(({ names, tiers, experts }) => ({ names, tiers, experts }))
  }
  t.same(await price('balanced'), [{ names: ['balanced'], tiers: ['hot', 'warm'], experts: 16 }])
  t.same(await price('hot,cold'), [{ names: ['hot,cold'], tiers: ['hot', 'cold'], experts: 16 }], 'which no mode means')
})

t.test('under a budget experts are read', { skip }, async (t) => {
  const dir = t.testdir({})
  const model = writeMoeModel(join(dir, 'large.gguf'), { layers: 4, experts: 16, feedForward: 256, embedding: 128 })
  const run = (memory: string) =>
    command(['price', model, '--tokens', '40', '--decode', '8', '--threads', '1', '--json', '--memory', memory])
  const { code, stdout, stderr } = await run('24MiB')
  t.equal(code, 0, stderr)
  const [price] = (JSON.parse(stdout) as List).prices
  t.ok(price!.hitRate < 1 && price!.hitRate > 0, `hit rate ${price!.hitRate}`)
  t.ok(price!.lateRate >= 0 && price!.hitRate + price!.lateRate < 1, 'some have to be asked for')
  t.ok(price!.bytesPerToken > 0)
  const all = JSON.parse((await run('1GiB')).stdout) as List
  t.equal(all.prices[0]!.perplexity, price!.perplexity, 'the perplexity is the same, wherever the experts are')
})

t.test('TierSets without enough experts, and texts that cannot be read', { skip }, async (t) => {
  const dir = t.testdir({ 'empty.txt': 'x', 'text.txt': TEXT })
  const model = join(dir, 'hser.gguf')
  writeMoeModel(model, { hser: { ...hser, k: [2, 1, 2] } })
  const { code, stdout } = await command(['price', model, '--text', join(dir, 'text.txt'), '--decode', '2'])
  t.equal(code, 0)
  t.match(stdout, /fast +hot +too few/)
  t.equal((await command(['price', model, '--text', join(dir, 'none.txt')])).code, 1)
  t.match((await command(['price', model, '--text', join(dir, 'empty.txt')])).stderr, /at least two/)
  writeFileSync(join(dir, 'broken.gguf'), 'x')
  t.equal((await command(['price', join(dir, 'broken.gguf'), '--json'])).code, 1)
  const run = ['run', model, '-p', 'a', '-n', '2', '--tier-set']
  t.equal((await command([...run, 'hot,cold'])).code, 0)
  t.match((await command([...run, 'hot,tepid'])).stderr, /there is no tier "tepid"/)
})

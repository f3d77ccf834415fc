import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { PairMemory, PairTable } from '../../lib/model/pair-table.js'
import { WordMemory } from '../../lib/model/word-memory.js'
import { random } from '../fixtures/weights.js'

setFlagsFromString('--expose_gc')
const collect = runInNewContext('gc') as () => void

t.test('a word that is remembered does not keep its text', async (t) => {
  const memory = new WordMemory()
  const size = 2 ** 20
  collect()
  const before = process.memoryUsage().heapUsed
  for (let i = 0; i < 40; i++) {
    const text = Buffer.alloc(size, 65 + i).toString('latin1')
    memory.recall(text.slice(10, 30), () => [i])
  }
  collect()
  t.ok(process.memoryUsage().heapUsed - before < 20 * size)
  t.same(
    memory.recall('A'.repeat(20), () => []),
    [0],
    'and is remembered'
  )
  const odd = 'a\ud800中\udc00🚀'.padEnd(20)
  memory.recall(odd, () => [7])
  t.same(
    memory.recall(odd, () => []),
    [7],
    'whatever it is made of'
  )
  memory.recall('x'.repeat(33), () => [1])
  t.same(
    memory.recall('x'.repeat(33), () => [2]),
    [2],
    'long ones are not'
  )
})

t.test('pairs', async (t) => {
  const next = random(4)
  const table = new PairTable(4)
  const expected = new Map<string, number>()
  for (let i = 0; i < 5000; i++) {
    const [left, right, value] = [Math.floor(next() * 60), Math.floor(next() * 60), i % 7 === 0 ? -1 : i]
    table.set(left, right, value)
    expected.set(`${left} ${right}`, value)
  }
  t.equal(table.size, expected.size)
  const found = Array.from(expected.keys(), (pair) => {
    const [left, right] = pair.split(' ').map(Number) as [number, number]
    return table.get(left, right)
  })
  t.same(found, [...expected.values()])
  t.equal(table.get(60, 1), undefined)
  const slotsOf = (one: PairTable) => {
    for (let i = 0; i < 500; i++) one.set(i, i, i)
    return (one as unknown as { slots: Int32Array }).slots
  }
  t.notSame(slotsOf(new PairTable(1000)), slotsOf(new PairTable(1000)), 'where they lie cannot be foreseen')
  const memory = new PairMemory()
  t.equal(memory.keep(1, 2, -1), -1)
  t.equal(memory.get(1, 2), -1)
  for (let i = 0; i < 400_000; i++) memory.keep(3, i, i)
  t.equal(memory.get(1, 2), undefined, 'emptied when it is full')
  t.equal(memory.get(3, 399_999), 399_999)
})

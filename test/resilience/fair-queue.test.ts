/** Deficit round robin: the order beside a plain one, round by round, and what each client gets. */
import t from 'tap'
import { seededRandom } from '../../lib/resilience/backoff.js'
import { FairQueue, type Queued } from '../../lib/resilience/fair-queue.js'

interface Item extends Queued {
  id: number
}

const quantum = 256
const nobody = (): boolean => false

/** All items in the order of the rounds, none of them skipped. */
function plainOrder(items: readonly Item[]): number[] {
  const clients = [...new Set(items.map(({ client }) => client))]
  const waiting = new Map(clients.map((client) => [client, items.filter((item) => item.client === client)]))
  const deficits = new Map(clients.map((client) => [client, 0]))
  const order: number[] = []
  while (order.length < items.length) {
    for (const client of clients) {
      const own = waiting.get(client)!
      if (own.length === 0) continue
      deficits.set(client, deficits.get(client)! + quantum * own[0]!.weight)
      while (own.length > 0 && own[0]!.cost <= deficits.get(client)!) {
        deficits.set(client, deficits.get(client)! - own[0]!.cost)
        order.push(own.shift()!.id)
      }
    }
  }
  return order
}

t.test('the order is that of the rounds, where many of them serve nobody too', async (t) => {
  for (let seed = 1; seed <= 500; seed++) {
    const random = seededRandom(seed)
    const most = seed % 3 === 0 ? 100_000 : 2000
    const items = Array.from({ length: 30 }, (_, id) => ({
      id,
      client: `c${Math.floor(random() * 4)}`,
      weight: 1 + Math.floor(random() * 10),
      cost: Math.floor(random() * most)
    }))
    const queue = new FairQueue<Item>()
    for (const item of items) queue.push(item)
    const foretold = queue.order().map(({ id }) => id)
    const taken: number[] = []
    for (let item = queue.peek(nobody); item; item = queue.peek(nobody)) {
      if (queue.peek(nobody) !== item) return t.fail('what is next stays next')
      queue.take(item)
      taken.push(item.id)
    }
    const plain = plainOrder(items)
    if (String(taken) !== String(plain)) return t.same(taken, plain, `seed ${seed}`)
    if (String(foretold) !== String(taken)) return t.same(foretold, taken, `foretold, seed ${seed}`)
  }
})

t.test('clients that always want more get tokens by their weights, whatever each request costs', async (t) => {
  const clients = [
    { client: 'long', weight: 5, cost: 4000 },
    { client: 'short', weight: 5, cost: 30 },
    { client: 'heavy', weight: 10, cost: 700 },
    { client: 'light', weight: 1, cost: 300 }
  ]
  const queue = new FairQueue<Item>()
  const served: Record<string, number> = {}
  let id = 0
  for (const item of clients) for (let i = 0; i < 2; i++) queue.push({ ...item, id: id++ })
  for (let i = 0; i < 20_000; i++) {
    const item = queue.peek(nobody)!
    queue.take(item)
    served[item.client] = (served[item.client] ?? 0) + item.cost / item.weight
    queue.push({ ...item, id: id++ })
    const shares = clients.map(({ client }) => served[client] ?? 0)
    // A round, and a request of each of the two that differ most.
    const bound = quantum + 4000 / 5 + 700 / 10 + 300
    if (Math.max(...shares) - Math.min(...shares) > bound) return t.fail(`after ${i}: ${shares}`)
  }
  t.ok(Object.values(served).every((share) => share > 10_000))
})

t.test('clients that may not have their turn are passed, and keep their place in the rounds', async (t) => {
  const queue = new FairQueue<Item>()
  const item = (client: string, id: number): Item => ({ client, id, weight: 1, cost: 100 })
  for (const [id, client] of ['a', 'b', 'a', 'b'].entries()) queue.push(item(client, id))
  t.equal(queue.peek((client) => client === 'a')?.id, 1)
  t.equal(
    queue.peek(() => true),
    undefined
  )
  t.match([queue.size, queue.sizeOf('a'), queue.sizeOf('none'), queue.cost], [4, 2, 0, 400])
  t.same(
    queue.order().map(({ client }) => client),
    ['b', 'b', 'a', 'a'],
    'as one turn pays for two of them'
  )
})

t.test('what leaves, and who has the most waiting', async (t) => {
  const queue = new FairQueue<Item>()
  t.equal(queue.longest(), undefined)
  t.equal(queue.peek(nobody), undefined)
  const items = ['a', 'b', 'b'].map((client, id) => ({ client, id, weight: 1, cost: 1 }))
  for (const item of items) queue.push(item)
  t.equal(queue.longest(), 'b')
  t.equal(queue.last('b')?.id, 2)
  t.ok(queue.remove(items[2]!))
  t.notOk(queue.remove(items[2]!), 'once')
  t.equal(queue.longest(), 'a', 'of equal ones the first in turn')
  t.ok(queue.remove(items[0]!))
  t.ok(queue.remove(items[1]!))
  t.match([queue.size, queue.order()], [0, []])
})

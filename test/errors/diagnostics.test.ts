/** Every error is told on the diagnostics channel, by each copy of the library. */
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { createRequire } from 'node:module'
import { resolve } from 'node:path'
import t from 'tap'
import * as esm from 'tiered-moe'
import * as resilience from 'tiered-moe/resilience'

const cjs: typeof esm = createRequire(resolve('package.json'))('tiered-moe')

t.test('what is raised is told with its code, until nobody listens', async (t) => {
  const heard: { code: string; error: unknown }[] = []
  const listen = (message: unknown): void => {
    heard.push(message as (typeof heard)[number])
  }
  subscribe('tiered-moe:error', listen)
  const raised: unknown[] = []
  const raise = (call: Promise<unknown>): Promise<unknown> => call.catch((error) => raised.push(error))
  for (const { createEngine } of [esm, cjs]) await raise(createEngine({ threads: -1 }))
  using late = resilience.Deadline.after(0)
  await raise(resilience.withResilience(() => 1, { deadline: late }))
  unsubscribe('tiered-moe:error', listen)
  t.same(
    heard.map(({ code }) => code),
    ['VALIDATION_ERROR', 'VALIDATION_ERROR', 'CALL_TIMEOUT']
  )
  t.equal(raised.length, 3)
  for (const [index, { error }] of heard.entries()) t.equal(error, raised[index])
  await raise(esm.createEngine({ threads: -1 }))
  t.equal(heard.length, 3)
})

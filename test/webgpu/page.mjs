// Runs in a page: one Mixture-of-Experts layer on what the server has, as a page of a user's would; what comes out is posted back.
import { EngineError, openBackend } from '/dist/webgpu.js'

const load = async (name, Type) => new Type(await (await fetch(`/layer/${name}`)).arrayBuffer())
const codeOf = (error) => (error instanceof EngineError ? error.code : String(error))

async function layer(backend) {
  const { experts, k, width, routerExponent, matrices } = await (await fetch('/layer.json')).json()
  const [states, positions] = [await load('states', Float32Array), await load('positions', Uint32Array)]
  const router = await load('router', Int32Array)
  const packed = {}
  for (const [name, shape] of Object.entries(matrices))
    packed[name] = { ...shape, data: await backend.upload(await load(name, Uint8Array)) }

  const { ids, weights } = await backend.route({ states, router, routerExponent, experts, k, positions })
  const { offsets, slots, rows } = await backend.dispatch({ ids, k, experts })
  const values = await backend.expertMatmul({ x: states, k, offsets, slots, ...packed })
  const out = await backend.combine({ values, ids, weights, rows, k, experts, width })
  return { ids: [...ids], weights: [...weights], out: [...out] }
}

async function run() {
  const backend = await openBackend('webgpu')
  const result = { device: backend.device, ...(await layer(backend)) }
  const refused = []
  await openBackend('cpu').catch((error) => refused.push(codeOf(error)))
  await openBackend('webgpu', { memory: 'much' }).catch((error) => refused.push(codeOf(error)))
  await backend.dispatch({ ids: new Int32Array(3), k: 2, experts: 4 }).catch((error) => refused.push(codeOf(error)))
  backend.dispose()
  await backend.dispatch({ ids: new Int32Array(2), k: 2, experts: 4 }).catch((error) => refused.push(codeOf(error)))
  return { ...result, refused }
}

const result = await run().catch((error) => ({ failure: codeOf(error), message: String(error.stack) }))
await fetch('/result', { method: 'POST', body: JSON.stringify(result) })

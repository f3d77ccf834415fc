import type { OnDevice } from '../../../kernels/device-arrays.js'
import { maskWords, rangeLaunch, routeLaunches } from '../launches/route.js'
import { maskBits } from '../masks.js'
import {
  arrayArgument,
  choiceArgument,
  flagArgument,
  hostArgument,
  integerArgument,
  mostExperts,
  numberArgument,
  partsOf,
  refused
} from './arguments.js'
import type { GpuKernel, KernelCall } from './call.js'
import { readExtras } from './route-extras.js'
import { checkEnabled, readHser } from './route-hser.js'

const forms = ['softmax_topk', 'topk_softmax', 'sigmoid', 'hser'] as const

/** Router matrices one after another, as one buffer. */
async function stacked(call: KernelCall, routers: readonly { name: string; value: unknown; count: number }[]) {
  const parts: GPUBufferBinding[] = []
  for (const { name, value, count } of routers) parts.push(await call.input(name, value, 'i32', count))
  if (parts.length === 1) return parts[0]!
  const whole = await call.scratch(routers.reduce((sum, { count }) => sum + count * 4, 0))
  call.queue((commands) => {
    let offset = 0
    for (const [i, part] of parts.entries()) {
      const size = routers[i]!.count * 4
      commands.copy({ ...part, size }, { buffer: whole.buffer, offset, size })
      offset += size
    }
  })
  return whole
}

const allEnabled = 0xffffffff

/** Masks [masks][experts], and which one each token has. */
async function readMasks(
  call: KernelCall,
  r: { enabled?: OnDevice<Uint8Array>; maskOf?: OnDevice<Uint32Array> },
  experts: number,
  tokens: number
) {
  const enabled = r.enabled ? await hostArgument(call, 'enabled', r.enabled, 'u8', experts) : new Uint8Array(0)
  const masks = enabled.subarray(0, r.maskOf ? enabled.length - (enabled.length % experts) : experts)
  if (!r.maskOf) return { masks, maskOf: new Uint32Array(tokens).fill(r.enabled ? 0 : allEnabled) }
  const maskOf = (await hostArgument(call, 'maskOf', r.maskOf, 'u32', tokens)).subarray(0, tokens)
  const wrong = maskOf.find((mask) => mask !== allEnabled && mask >= masks.length / experts)
  if (wrong !== undefined) throw refused('maskOf', `numbers of ${masks.length / experts} masks`, String(wrong))
  return { masks, maskOf }
}

export const route: GpuKernel<'route'> = async (call, r) => {
  const experts = integerArgument('experts', r.experts, 1, mostExperts)
  const width = partsOf('router', arrayArgument('router', r.router, 'i32', 0).length, experts)
  if (width < 1 || width > 65536) throw refused('router', 'a width from 1 to 65536', String(width))
  const k = integerArgument('k', r.k, 1, experts)
  const form = choiceArgument('form', r.form ?? 'softmax_topk', forms)
  const normalise = flagArgument('normalise', r.normalise ?? false)
  const layer = integerArgument('layer', r.layer ?? 0, 0, 0xffffffff)
  const exponent = numberArgument('routerExponent', r.routerExponent, -200, 200)
  const seed = await hostArgument(call, 'seed', r.seed ?? new Uint32Array(4), 'u32', 4)
  const tokens = arrayArgument('positions', r.positions, 'u32', 0).length
  const { masks, maskOf } = await readMasks(call, r, experts, tokens)
  const extras = readExtras(r, form, experts, k)
  const upper = form === 'hser' ? await readHser(call, r.hser, width, experts, k) : undefined
  // as on the CPU: without `maskOf` the mask is looked at even where there are no tokens
  for (const mask of new Set(r.maskOf ? maskOf : [masks.length > 0 ? 0 : allEnabled]))
    checkEnabled(
      experts,
      k,
      mask === allEnabled ? undefined : masks.subarray(mask * experts, (mask + 1) * experts),
      upper,
      extras.groups
    )

  const routers = [{ name: 'router', value: r.router, count: experts * width }, ...(upper?.routers ?? [])]
  const numbers = routers.reduce((sum, { count }) => sum + count, 0)
  const states = await call.input('states', r.states, 'f32', tokens * width)
  const positions = await call.input('positions', r.positions, 'u32')
  const router = await stacked(call, routers)
  const bits = await call.input('bits of enabled', maskBits(masks, experts), 'u32')
  const bias = r.bias && (await call.input('bias', r.bias, 'i32', experts))
  const selectionBias = r.selectionBias && (await call.input('selectionBias', r.selectionBias, 'i64', experts))
  const named = await call.input('mask of each token', maskOf, 'u32')
  const ids = await call.output('ids', r.ids, 'i32', tokens * k, { alone: true })
  const weights = await call.output('weights', r.weights, 'f32', tokens * k, { alone: true })
  const rows = numbers / width
  const scores = r.scores && (await call.output('scores', r.scores, 'i64', tokens * rows, { alone: true }))
  const exact = scores && !upper ? scores.binding : await call.scratch(tokens * rows * 8)
  const exponents = await call.scratch(tokens * 4)
  const status = await call.status((words) => {
    if (words[1] !== 0xffffffff) throw refused('router', 'integers of 24 bits, from packRouter', `more at ${words[1]}`)
    if (words[2] !== 0xffffffff) throw refused('bias', 'integers of 24 bits, from packBias', `more at ${words[2]}`)
    if (words[3] !== 0xffffffff)
      throw refused('selectionBias', 'integers up to 2^61, from packSelectionBias', `more at ${words[3]}`)
    call.checkFinite(words[0]!)
  })

  const shape = {
    tokens,
    width,
    experts,
    k,
    form,
    normalise,
    ...extras,
    layer,
    seed,
    exponent,
    mask: { stride: maskWords(experts), offset: 0 },
    ...(upper && { hser: { ...upper.shape, scores: scores !== undefined } })
  }
  const { scores: scoring, choose } = routeLaunches(shape, call.facts)
  await call.run(rangeLaunch('router', numbers, call.facts), [router, status])
  if (bias) await call.run(rangeLaunch('bias', experts, call.facts), [bias, status])
  if (selectionBias) await call.run(rangeLaunch('selectionBias', experts, call.facts), [selectionBias, status])
  await call.run(scoring, [states, router, exact, exponents, status])
  await call.run(choose, [
    exact,
    exponents,
    positions,
    bits,
    named,
    ids.binding,
    weights.binding,
    status,
    ...(upper ? [await call.input('topology', upper.topology, 'u32')] : []),
    ...(upper && scores ? [scores.binding] : []),
    ...(bias ? [bias] : []),
    ...(selectionBias ? [selectionBias] : [])
  ])
  return scores
    ? { ids: ids.array, weights: weights.array, scores: scores.array }
    : { ids: ids.array, weights: weights.array }
}

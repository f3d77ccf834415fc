// The requests and swaps of the kill test: the i-th is the same in every process that has the seed.
import { seededRandom } from './harness.mjs'

/** More than a page of the KV cache: requests that begin with it share that, where their TierSet and the versions of their experts are the same. */
const scene =
  'First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\nFirst Citizen:\nYou are all resolved rather to die than to famish?\n\n'
const prompts = [
  'ROMEO:',
  'JULIET:\nO ',
  'First Citizen:\n',
  'KING RICHARD III:\nNow ',
  'A',
  'To be, or',
  'HAMLET:\n\n'
]
/** Of the model's 16 experts in each layer; a token uses 4. */
export const tiers = [
  { name: 'core', placement: 'hot', experts: ['0-7'] },
  { name: 'usual', placement: 'warm', experts: ['8-11'] },
  { name: 'rare', placement: 'cold', experts: 'rest' }
]
const [layers, experts] = [4, 16]
const tierSets = [undefined, 'fast', 'balanced', 'max', 'usual', ['core', 'rare'], ['usual', 'rare']]
const stops = ['the', '\n\n', 'I ', 'thou', ', and', 'lord']

/** Seeded choices: prompts, seeds, temperatures, filters, penalties, stop strings, lengths and TierSets all differ. */
export function requestOf(seed, i) {
  const random = seededRandom(seed * 100_003 + i)
  const pick = (list) => list[Math.floor(random() * list.length)]
  const shares = random() < 0.6
  const request = {
    model: 'tiny-shakespeare',
    requestId: `request-${i}`,
    prompt: (shares ? scene : '') + pick(prompts),
    seed: Math.floor(random() * 2 ** 50),
    temperature: pick([0, 0.5, 0.8, 1, 1.4]),
    topK: pick([0, 5, 40]),
    topP: pick([0.7, 0.95, 1]),
    maxTokens: 20 + Math.floor(random() * 140)
  }
  if (random() < 0.5) request.stop = [pick(stops), pick(stops)]
  if (random() < 0.3) request.repetitionPenalty = 1.2
  if (random() < 0.3) request.topLogprobs = 2
  if (random() < 0.5) request.ignoreEos = true
  const tierSet = pick(tierSets)
  if (tierSet && !(shares && random() < 0.8)) request.tierSet = tierSet
  return request
}

/** The n-th swap, from 1 on: places of experts, each with the place whose first weights it gets. Done twice, it changes nothing more. */
function swapOf(seed, n) {
  const random = seededRandom(seed * 100_019 + n)
  const draw = (count) => Math.floor(random() * count)
  const places = new Map()
  for (let left = 1 + draw(3); left > 0; left--) {
    places.set(draw(layers) * experts + draw(experts), draw(layers) * experts + draw(experts))
  }
  return places
}

/** The place whose first weights each changed expert has after the first `count` swaps. */
export function expertsAfter(seed, count) {
  const all = new Map()
  for (let n = 1; n <= count; n++) for (const [place, from] of swapOf(seed, n)) all.set(place, from)
  return all
}

/** The place of an expert in the order of layers. */
export const placeOf = (layer, expert) => layer * experts + expert

/** As swapExperts takes it; `model` has the first weights. */
const changesOf = (places, model) =>
  [...places].map(([place, from]) => ({
    action: 'replace',
    layer: Math.floor(place / experts),
    expert: place % experts,
    from: model,
    fromLayer: Math.floor(from / experts),
    fromExpert: from % experts
  }))

export const changesOfSwap = (seed, n, model) => changesOf(swapOf(seed, n), model)

/** What makes the experts of one state those of another. */
export function changesBetween(seed, before, after, model) {
  const [was, will] = [expertsAfter(seed, before), expertsAfter(seed, after)]
  const places = new Map()
  for (const place of new Set([...was.keys(), ...will.keys()])) {
    const from = will.get(place) ?? place
    if ((was.get(place) ?? place) !== from) places.set(place, from)
  }
  return changesOf(places, model)
}

/** What a text is compared by: everything that a client sees, but what others had computed of it. */
export const fingerprint = (items) =>
  JSON.stringify(
    items.map(({ text, token, logprob, topLogprobs, finishReason, usage, tierSet }) => [
      text,
      token,
      logprob,
      topLogprobs,
      finishReason,
      usage && { ...usage, cachedTokens: 0 },
      tierSet
    ])
  )

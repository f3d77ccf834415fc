// The requests of the kill test: the i-th is the same in every process that has the seed.
import { seededRandom } from './harness.mjs'

const prompts = [
  'ROMEO:',
  'JULIET:\nO ',
  'First Citizen:\n',
  'KING RICHARD III:\nNow ',
  'A',
  'To be, or',
  'HAMLET:\n\n'
]
const stops = ['the', '\n\n', 'I ', 'thou', ', and', 'lord']

/** Seeded choices: prompts, seeds, temperatures, filters, penalties, stop strings and lengths all differ. */
export function requestOf(seed, i) {
  const random = seededRandom(seed * 100_003 + i)
  const pick = (list) => list[Math.floor(random() * list.length)]
  const request = {
    model: 'tiny-shakespeare',
    requestId: `request-${i}`,
    prompt: pick(prompts),
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
  return request
}

/** What a text is compared by: everything that a client sees. */
export const fingerprint = (items) =>
  JSON.stringify(
    items.map(({ text, token, logprob, topLogprobs, finishReason, usage }) => [
      text,
      token,
      logprob,
      topLogprobs,
      finishReason,
      usage
    ])
  )

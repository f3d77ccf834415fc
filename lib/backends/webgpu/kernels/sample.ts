import { createError } from '../../../errors/index.js'
import { resultWords, sampleLaunch } from '../launches/sample.js'
import { type Draw, type Drawn, drawsOnDevice, sampled, sampleFailure, sampleRequests } from '../sampling.js'
import { arrayArgument, hostArgument, integerArgument, numberArgument } from './arguments.js'
import type { GpuKernel } from './call.js'

const largestInteger = Number.MAX_SAFE_INTEGER
const mostTemperature = 1e6
const [leastPenalty, mostPenalty] = [1e-6, 1e6]
const mostLogprobs = 20

/** Draws from at most 256 candidates: VALIDATION_ERROR {argument: topK} for a temperature with more (lib/kernels/webgpu.ts asks the CPU then). */
export const sample: GpuKernel<'sample'> = async (call, r) => {
  const vocab = arrayArgument('logits', r.logits, 'f32', 1).length
  const draw: Draw = {
    position: integerArgument('position', r.position, 0, largestInteger),
    temperature: numberArgument('temperature', r.temperature ?? 0, 0, mostTemperature),
    topK: integerArgument('topK', r.topK ?? 0, 0, 2 ** 31 - 1),
    topP: numberArgument('topP', r.topP ?? 1, 0, 1),
    minP: numberArgument('minP', r.minP ?? 0, 0, 1),
    repetitionPenalty: numberArgument('repetitionPenalty', r.repetitionPenalty ?? 1, leastPenalty, mostPenalty),
    seed: integerArgument('seed', r.seed ?? 0, 0, largestInteger),
    topLogprobs: integerArgument('topLogprobs', r.topLogprobs ?? -1, -1, mostLogprobs)
  }
  if (r.recent) draw.recent = await hostArgument(call, 'recent', r.recent, 'i32', 0)
  if (r.banned) draw.banned = await hostArgument(call, 'banned', r.banned, 'i32', 0)
  if (r.allowed) draw.allowed = await hostArgument(call, 'allowed', r.allowed, 'u32', 1)
  if (!drawsOnDevice(draw, vocab)) {
    const message = 'topK: the GPU draws from at most 256 candidates'
    throw createError('VALIDATION_ERROR', message, { argument: 'topK', expected: 'at most 256', actual: draw.topK })
  }
  const given = await call.input('logits', r.logits, 'f32')
  const logits = await call.scratch(vocab * 4) // the shader writes into it
  call.queue((commands) => commands.copy(given, logits))
  const { requests, lists } = sampleRequests([draw], vocab)
  const asked = await call.input('requests', requests, 'u32')
  const listed = await call.input('lists', lists, 'u32')
  const results = await call.scratch(resultWords * 4)
  await call.run(sampleLaunch({ rows: 1, vocab }), [logits, asked, listed, results])
  const drawn = {} as Drawn
  call.answers(results, (words) => {
    const failure = sampleFailure(words, 0, draw.position)
    if (failure) throw failure
    Object.assign(drawn, sampled(words, 0, draw, vocab))
  })
  return drawn
}

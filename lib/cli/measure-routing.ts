/** Runs a text through a model and counts how often each expert was used: what `convert --text` chooses tiers by. */
import { readFile } from 'node:fs/promises'
import type { RoutingStatistics } from '../checkpoint/index.js'
import { createError } from '../errors/index.js'
import { given } from './arguments.js'
import type { Session } from './session.js'

/** Tokens that are run as one sequence, where the context has room for them. */
const windowTokens = 512

/** VALIDATION_ERROR for a file that is not there or holds no token; the errors of loading and running the model. */
export async function measureRouting(
  model: string,
  path: string,
  session: Session,
  quantize?: 'Q8_0' | 'Q4_0'
): Promise<RoutingStatistics> {
  const text = await readFile(path, 'utf8').catch((cause: unknown) => {
    const details = { path: 'text', found: path, allowed: 'a text file' }
    throw createError('VALIDATION_ERROR', `convert: ${path} cannot be read`, details, { cause })
  })
  const { withModel } = await import('./with-model.js')
  // Of the whole model, whatever tiers a configuration gives it.
  return withModel(model, { config: false, ...given({ quantize }) }, session, async ({ engine, id, descriptor }) => {
    const layers = Array.from({ length: descriptor.expertLayers }, () => new Array<number>(descriptor.experts).fill(0))
    const { tokens } = await engine.tokenize({ model: id, text })
    if (tokens.length === 0) {
      const details = { path: 'text', found: 'no token', allowed: 'a text file' }
      throw createError('VALIDATION_ERROR', `convert: ${path} holds no token`, details)
    }
    const window = Math.min(windowTokens, descriptor.contextLength)
    for (let at = 0; at < tokens.length; at += window) {
      const part = tokens.slice(at, at + window)
      const request = { model: id, tokens: part, captureRouting: true } as const
      const { routing } = await engine.forward(request, { signal: session.signal })
      const { k, ids } = routing
      ids.forEach((expert, i) => {
        if (expert >= 0) layers[Math.floor(i / k) % routing.layers]![expert]!++
      })
      session.progress('routing', { bytesDone: at + part.length, bytesTotal: tokens.length })
    }
    session.clearProgress()
    return { layers }
  })
}

/** `tiered-moe doctor --leaks`: whether an engine gives back all that it takes. */
import { isClean, LeakWatch, leakError } from '../guards/leaks.js'
import { createEngine } from '../index.js'
import { native } from '../native.js'
import { formatPairs } from './format.js'
import type { Session } from './session.js'

const rounds = 3

/** One engine's life, with an aborted request among others. */
async function live(signal: AbortSignal): Promise<void> {
  const engine = await createEngine({}, { signal })
  try {
    const { id: model } = await engine.loadModel({}, { signal })
    const request = { model, prompt: 'ROMEO:', maxTokens: 8, ignoreEos: true }
    await engine.generate(request, { signal })
    for await (const _ of engine.createGenerator(request, { signal })) break
  } finally {
    await engine.dispose()
  }
}

/** Throws RESOURCE_LEAK_DETECTED. */
export async function showLeaks(session: Session, json: boolean): Promise<void> {
  const addon = native()
  // What a first use takes once for the process is no leak.
  await live(session.signal)
  const watch = LeakWatch.begin(addon)
  for (let round = 0; round < rounds; round++) await live(session.signal)
  const report = await watch.check()
  if (json) session.json({ rounds, clean: isClean(report), ...report })
  else {
    const counts = (of: Record<string, number>) =>
      Object.entries(of)
        .map(([name, count]) => `${count} of ${name}`)
        .join(', ') || 'none'
    session.write(
      formatPairs([
        ['rounds', `${rounds}: an engine, a model, a text, an abandoned one, dispose`],
        ['handles', counts(report.handles)],
        ['descriptors', report.files.join(', ') || 'none'],
        ['native', counts(report.native)],
        ['processes', report.processes.join(', ') || 'none'],
        ['folders', report.temporary.join(', ') || 'none']
      ])
    )
  }
  if (!isClean(report)) throw leakError(report)
}

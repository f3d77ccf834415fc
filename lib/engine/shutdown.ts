/** How an engine ends: nothing new, what runs is ended and waited for, everything is released. */
import type { EngineParts } from './parts.js'
import { disposedError } from './parts.js'
import type { Recovery } from './recovery.js'

export async function shutDown({ lifecycle, models, backend }: EngineParts, recovery: Recovery): Promise<void> {
  await recovery.settled()
  lifecycle.to('draining', 'dispose')
  const loads = models.loads()
  for (const { interruption } of loads) interruption.interrupt(disposedError('loadModel'))
  await Promise.all(models.takeAll().map((model) => model.close(() => disposedError('generation'))))
  await Promise.allSettled(loads.map(({ done }) => done))
  backend.dispose()
  lifecycle.to('closed', 'everything is released')
}

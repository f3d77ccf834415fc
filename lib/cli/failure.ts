/** How a command that failed ends: what happened, its code, what to do, and the exit code of the catalogue. */
import { CommanderError } from 'commander'
import { createError, EngineError } from '../errors/index.js'
import type { Session } from './session.js'

/** Anything that was thrown as a typed error; undefined for a request for help, which is no failure. */
function asEngineError(error: unknown): EngineError | undefined {
  if (error instanceof EngineError) return error
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return undefined
    return createError('VALIDATION_ERROR', error.message.replace(/^error: /, ''), {
      path: 'arguments',
      suggestedAction: 'See `tiered-moe --help`, or --help after a command.'
    })
  }
  const message = error instanceof Error ? error.message : String(error)
  return createError('RUNTIME_INVARIANT_VIOLATED', `unexpected: ${message}`, {}, { cause: error })
}

/** Reports the failure and returns the exit code. */
export function endWith(error: unknown, session: Session, json: boolean): number {
  session.clearProgress()
  // a command that was told to end has not failed
  if (session.exitCode !== undefined) {
    if (session.exitCode !== 0) session.note('interrupted\n')
    return session.exitCode
  }
  const failure = session.outputFailure ?? asEngineError(error)
  if (!failure) return 0
  if (json) {
    session.note(`${JSON.stringify(failure)}\n`)
  } else {
    session.note(
      `error: ${failure.message}\n  code: ${failure.code}\n  what to do: ${failure.details.suggestedAction}\n`
    )
    if (failure.code === 'RUNTIME_INVARIANT_VIOLATED' && failure.cause instanceof Error) {
      session.note(`${failure.cause.stack}\n`)
    }
  }
  return failure.exitCode
}

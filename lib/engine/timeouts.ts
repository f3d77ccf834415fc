/** The engine's deadlines for requests, checked: request > inference > cleanup. */
import type { Deadlines } from '../generation/deadlines.js'
import { cleanupTime } from '../generation/deadlines.js'
import { validationError } from '../validation.js'
import type { CheckedOptions } from './options.js'

type Timeouts = CheckedOptions['timeouts']

/** Throws VALIDATION_ERROR where one that is inside another is not less. */
export function checkTimeouts({ requestMs, inferenceMs, cleanupMs }: Timeouts): void {
  const least = (path: string, inner: number | undefined, outer: number | undefined): void => {
    if (inner === undefined || outer === undefined || inner < outer) return
    throw validationError('createEngine', `timeouts.${path}`, inner, `less than ${outer}, the deadline around it`)
  }
  least('inferenceMs', inferenceMs, requestMs)
  least('cleanupMs', cleanupMs, inferenceMs ?? requestMs)
}

export const requestDeadlines = ({ requestMs, inferenceMs, cleanupMs }: Timeouts): Omit<Deadlines, 'onOverdue'> => ({
  requestMs,
  inferenceMs,
  cleanupMs: cleanupTime(cleanupMs, requestMs, inferenceMs)
})

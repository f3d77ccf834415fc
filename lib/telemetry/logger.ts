/** The logger that an application hands in. None comes with this library, and without one it says nothing. */

/** What pino, bunyan and console-like loggers with (object, message) methods have. */
export interface Logger {
  debug(fields: object, message?: string): void
  info(fields: object, message?: string): void
  warn(fields: object, message?: string): void
  error(fields: object, message?: string): void
}

/** Of an event. Errors have the level of their catalogue entry. */
export type EventLevel = keyof Logger

/** Whether a value can serve as a Logger. */
export const isLogger = (value: unknown): value is Logger =>
  typeof value === 'object' &&
  value !== null &&
  (['debug', 'info', 'warn', 'error'] as const).every(
    (level) => typeof (value as Record<string, unknown>)[level] === 'function'
  )

export type ErrorDetails = Record<string, unknown>
export function createError(code: string, message: string, details: ErrorDetails = {}): Error {
  return Object.assign(new Error(message), { code, details })
}

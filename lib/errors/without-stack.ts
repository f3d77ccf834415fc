/** What `make` returns, and no error of it has a stack: where there are many, collecting them is most of what they cost. */
export function withoutStack<Result>(make: () => Result): Result {
  const { stackTraceLimit } = Error
  Error.stackTraceLimit = 0
  try {
    return make()
  } finally {
    Error.stackTraceLimit = stackTraceLimit
  }
}

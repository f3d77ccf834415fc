/** Work that takes turns: each begins when the one before has ended, well or not. */
export class Turns {
  #last: Promise<unknown> = Promise.resolve()

  run<Result>(work: () => Promise<Result>): Promise<Result> {
    const done = this.#last.then(work, work)
    this.#last = done.catch(() => {})
    return done
  }
}

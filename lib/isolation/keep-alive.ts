/** Keeps the process alive while somebody waits for a worker; the worker alone does not. */

export class KeepAlive {
  #waiting = 0
  #timer: NodeJS.Timeout | undefined

  enter(): void {
    if (++this.#waiting === 1) this.#timer = setInterval(() => {}, 2 ** 30)
  }

  leave(): void {
    if (--this.#waiting === 0) clearInterval(this.#timer)
  }

  async during<Result>(work: () => Promise<Result>): Promise<Result> {
    this.enter()
    try {
      return await work()
    } finally {
      this.leave()
    }
  }
}

// What an input may take. Time is the process's own, so that a machine with other work, or one that stopped it, finds no hang that there is not.
export const limits = {
  /** Of an input, in milliseconds of this process's processor time. */
  hangMs: 1000,
  /** Of an input that waits for something that does not come, in milliseconds. */
  waitMs: 60_000,
  /** Resident bytes of the process. */
  bytes: 768 * 2 ** 20
}

/** How experts are split between EP ranks. */
import { validationError } from '../validation.js'

export interface ExpertShare {
  /** The first expert of the share. */
  first: number
  /** Experts in it; none for the last ranks where there are more ranks than experts. */
  count: number
}

/** Each rank's share: contiguous, in ascending order, as even as it goes, the first ranks one more (csrc/cpu/dispatch.h). */
export function expertShares(experts: number, ranks: number): ExpertShare[] {
  if (!Number.isInteger(experts) || experts < 1)
    throw validationError('ranks', 'experts', experts, 'a whole number from 1')
  if (!Number.isInteger(ranks) || ranks < 1) throw validationError('ranks', 'ranks', ranks, 'a whole number from 1')
  const [least, more] = [Math.floor(experts / ranks), experts % ranks]
  return Array.from({ length: ranks }, (_, rank) => ({
    first: rank * least + Math.min(rank, more),
    count: least + (rank < more ? 1 : 0)
  }))
}

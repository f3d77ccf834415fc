/**
 * Expert parallelism in one process: every rank has a backend, tokens of its own and a share of the experts. An exchange computes one
 * Mixture-of-Experts layer: each rank packs its tokens' rows by the rank that owns their experts, the segments change hands, each rank
 * computes the rows that it got, the results go back, and each rank combines its own.
 *
 * The result has the bits that one rank with all experts gives: rows keep the order (expert, source rank, slot), no row's arithmetic
 * depends on the others, and combine sums in expert-id order. When segments arrive changes nothing.
 */

import { packedBytes } from '../kernels/layout.js'
import type { AsyncKernels, DType, ExpertActivation, ExpertMatmulRequest, Matrix, OnDevice } from '../kernels.js'
import { validationError } from '../validation.js'
import { checkResults, checkSegment, type Segment, type SegmentHeader, seal } from './segment.js'
import { type ExpertShare, expertShares } from './share.js'

export interface ExpertRank {
  /** Any backend; ranks may share one. */
  backend: Pick<AsyncKernels, 'dispatch' | 'expertMatmul' | 'combine' | 'allToAllPack' | 'allToAllUnpack'>
  /**
   * The experts of its share alone (`expertShares`), packed by its backend; on a GPU `data` may be a device array, which spares an upload
   * for every exchange. A rank whose share is empty has none.
   */
  matrices?: { gate: OnDevice<Matrix>; up: OnDevice<Matrix>; down: OnDevice<Matrix> }
  /** Those of its experts, as `expertMatmul` takes them. All ranks with experts have them of the same matrices. */
  biases?: OnDevice<NonNullable<ExpertMatmulRequest['biases']>>
}

/** How a segment gets to its destination. In one process it is handed over. */
export type Carry = (segment: Segment) => Segment | Promise<Segment>

export interface RankGroupOptions {
  experts: number
  /** Experts of each token. */
  k: number
  /** Of every expert, as `expertMatmul` takes it. */
  activation?: ExpertActivation
  ranks: readonly ExpertRank[]
  carry?: Carry
}

/** Tokens of one rank. Outputs that are left out are allocated. */
export interface RankTokens {
  /** [tokens][width] f32. */
  x: Float32Array
  /** [tokens][k], from `route`. */
  ids: Int32Array
  weights: Float32Array
  /** out [tokens][width] f32. */
  out?: Float32Array
  /** Add to `out` instead of replacing it. */
  add?: boolean
}

const activations: readonly unknown[] = ['silu', 'clamped_swiglu'] satisfies ExpertActivation[]

const tokenArrays = { x: Float32Array, ids: Int32Array, weights: Float32Array } as const

/** What a rank keeps of its tokens while their rows are away. */
interface Departure {
  /** [tokens · k] row of each slot, from dispatch. */
  rows: Uint32Array
  /** One for each rank. */
  segments: Segment[]
}

/** Waits for all, so that nothing works on the caller's arrays afterwards; then throws the failure of the lowest rank, if there is one. */
async function everyRank<T>(work: Promise<T>[]): Promise<T[]> {
  const ended = await Promise.allSettled(work)
  return ended.map((one) => {
    if (one.status === 'rejected') throw one.reason
    return one.value
  })
}

/** Rows of several segments, one after another. */
function joined<A extends Float32Array | Int32Array>(Type: { new (length: number): A }, parts: readonly A[]): A {
  const out = new Type(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}

/** Throws VALIDATION_ERROR where a rank with `count` experts has the matrices of others, or no biases where the first rank has some. */
function checkRank(own: ExpertRank | undefined, rank: number, count: number, first: ExpertRank | undefined): void {
  const refused = (path: string, found: unknown, allowed: string) =>
    validationError('ranks', `ranks[${rank}].${path}`, found, allowed)
  const { matrices, biases } = own ?? {}
  if (!matrices) throw refused('matrices', undefined, `the matrices of ${count} experts`)
  for (const name of ['gate', 'up', 'down'] as const) {
    const { type, rows, columns, data }: Partial<OnDevice<Matrix>> = matrices[name] ?? {}
    const bytes = count * packedBytes(type as DType, rows as number, columns as number)
    // of a larger array the kernels would take the first experts
    if (data?.length !== bytes) throw refused(`matrices.${name}.data`, data, `${bytes} bytes, of ${count} experts`)
    if ((biases?.[name] === undefined) !== (first?.biases?.[name] === undefined))
      throw refused(`biases.${name}`, biases?.[name], `${biases?.[name] ? 'no ' : ''}biases, as of rank 0`)
  }
}

export class RankGroup {
  readonly shares: readonly ExpertShare[]
  readonly #options: RankGroupOptions
  readonly #carry: Carry
  #exchanges = 0

  /** Throws VALIDATION_ERROR {path, found, allowed}. */
  constructor(options: RankGroupOptions) {
    if (typeof options !== 'object' || options === null) throw validationError('ranks', 'options', options, 'an object')
    if (!Number.isInteger(options.k) || options.k < 1)
      throw validationError('ranks', 'k', options.k, 'a whole number from 1')
    if (!activations.includes(options.activation ?? 'silu'))
      throw validationError('ranks', 'activation', options.activation, activations.join(' or '))
    this.#options = options
    this.#carry = options.carry ?? ((segment) => segment)
    this.shares = expertShares(options.experts, options.ranks?.length)
    for (const [rank, { count }] of this.shares.entries())
      if (count > 0) checkRank(options.ranks[rank], rank, count, options.ranks[0])
  }

  /**
   * One layer for the tokens of every rank: [rank] → [tokens][width]. Throws what the kernels throw, and DISPATCH_SEGMENT_CORRUPTED
   * where a segment does not arrive as it was sent; after a failure the next exchange starts afresh.
   */
  async exchange(tokens: readonly RankTokens[]): Promise<Float32Array[]> {
    const { ranks } = this.#options
    if (!Array.isArray(tokens) || tokens.length !== ranks.length)
      throw validationError('exchange', 'tokens', tokens, `an array of one for each of the ${ranks.length} ranks`)
    const exchange = this.#exchanges++
    const width = this.#width(tokens)
    const departures = await everyRank(tokens.map((own, rank) => this.#pack(rank, own, exchange, width)))
    const answers = await everyRank(ranks.map((_, rank) => this.#answer(rank, departures)))
    return everyRank(tokens.map((own, rank) => this.#combine(rank, own, width, departures[rank]!, answers)))
  }

  /** Floats of a row: that of the matrices, which all ranks share. */
  #width(tokens: readonly RankTokens[]): number {
    const width = this.#options.ranks.find(({ matrices }) => matrices)!.matrices!.gate.columns
    for (const [rank, own] of tokens.entries()) {
      for (const [name, Type] of Object.entries(tokenArrays)) {
        const array = (own as Partial<RankTokens> | undefined)?.[name as keyof typeof tokenArrays]
        if (!(array instanceof Type))
          throw validationError('exchange', `tokens[${rank}].${name}`, array, `a ${Type.name}`)
      }
      const { x, ids } = own
      const wanted = (ids.length / this.#options.k) * width
      if (x.length !== wanted) throw validationError('exchange', `tokens[${rank}].x.length`, x.length, String(wanted))
    }
    return width
  }

  /** Rows of a rank's tokens by the rank that owns their experts. */
  async #pack(rank: number, own: RankTokens, exchange: number, width: number): Promise<Departure> {
    const { ranks, experts, k } = this.#options
    const { backend } = ranks[rank]!
    const { offsets, slots, rows } = await backend.dispatch({ ids: own.ids, k, experts })
    const common = { offsets, slots, ranks: ranks.length }
    const packed = await backend.allToAllPack({ ...common, x: own.x, width, k })
    // a weight is a row of one float of a slot
    const weights = (await backend.allToAllPack({ ...common, x: own.weights, width: 1, k: 1 })).out
    const ids = new Int32Array(slots.length)
    for (let expert = 0; expert < experts; expert++) ids.fill(expert, offsets[expert], offsets[expert + 1])
    let first = 0
    const segments = Array.from(packed.rankRows, (count, destination) => {
      const last = first + count
      const segment = seal(
        { kind: 'states', exchange, source: rank, destination, k, width },
        {
          slots: slots.subarray(first, last),
          experts: ids.subarray(first, last),
          weights: weights.subarray(first, last),
          rows: packed.out.subarray(first * width, last * width)
        }
      )
      first = last
      return segment
    })
    return { rows, segments }
  }

  /** A segment as it arrives. */
  async #arrival(sent: Segment, expected: SegmentHeader): Promise<Segment> {
    const segment = await this.#carry(sent)
    checkSegment(segment, expected)
    return segment
  }

  /** Computes the rows that all ranks sent to this one; the results, one segment for each of them. */
  async #answer(rank: number, departures: readonly Departure[]): Promise<Segment[]> {
    const arrived = await everyRank(departures.map(({ segments }) => this.#arrival(segments[rank]!, segments[rank]!)))
    const values = await this.#compute(rank, arrived)
    let at = 0
    return arrived.map((segment) => {
      const rows = values.subarray(at, at + segment.rows.length)
      at += segment.rows.length
      const { exchange, source, k, width, slots, experts, weights } = segment
      const header = { kind: 'results', exchange, source: rank, destination: source, k, width } as const
      return seal(header, { slots, experts, weights, rows })
    })
  }

  /** Each row through its expert, in the order in which the rows arrived. */
  async #compute(rank: number, arrived: readonly Segment[]): Promise<Float32Array> {
    const { ranks, experts, activation = 'silu' } = this.#options
    const { backend, matrices, biases } = ranks[rank]!
    const x = joined(
      Float32Array,
      arrived.map(({ rows }) => rows)
    )
    if (!matrices || x.length === 0) return x
    // every row is a token of its own with one expert
    const ids = joined(
      Int32Array,
      arrived.map((segment) => segment.experts)
    )
    const { offsets, slots } = await backend.dispatch({ ids, k: 1, experts })
    const { first, count } = this.shares[rank]!
    const own = offsets.subarray(first, first + count + 1)
    // a backend that does not have the matrices' memory refuses them
    const request = { x, k: 1, offsets: own, slots, ...matrices, activation, ...(biases && { biases }) }
    const packed = await backend.expertMatmul(request as ExpertMatmulRequest)
    return backend.allToAllUnpack({ packed, width: matrices.gate.columns, k: 1, offsets: own, slots })
  }

  async #combine(
    rank: number,
    own: RankTokens,
    width: number,
    { rows, segments }: Departure,
    answers: readonly Segment[][]
  ): Promise<Float32Array> {
    const { ranks, experts, k } = this.#options
    const results = await everyRank(
      answers.map(async (answer, source) => {
        const sent = segments[source]!
        const back = await this.#arrival(answer[rank]!, { ...sent, kind: 'results', source, destination: rank })
        checkResults(back, sent)
        return back.rows
      })
    )
    // experts rise with ranks, so that results of rank after rank are in the order of the dispatched rows
    const values = joined(Float32Array, results)
    const { x: _, ...rest } = own
    return ranks[rank]!.backend.combine({ ...rest, values, rows, k, experts, width })
  }
}

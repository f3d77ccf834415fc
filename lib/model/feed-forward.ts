/** The parts of a feed-forward that every token goes through: dense layers before those with experts, and the expert that all share. */
import type { Metadata } from './metadata.js'

export interface FeedForwardRules {
  /** Files may say that their first layers are dense. */
  leadingDense?: boolean
  /** A shared expert: so many times a routed one's width, of a width of its own, or `optional`, where files name its width. */
  shared?: 'count' | 'width' | 'optional'
}

export interface FeedForwardSizes {
  /** Layers with experts; the others come before them. */
  expertLayers: number
  /** Width inside the dense layers; 0 without any. */
  denseFeedForward: number
  /** Width inside the shared expert; 0 without one. */
  sharedFeedForward: number
}

/** Architecture.refuse of those whose name dense models have too. */
export const refuseDense = (m: Metadata): string | undefined =>
  m.get('.expert_count') ? undefined : 'without experts is a dense model, which is not supported'

/** `feedForward`: width inside one routed expert; no width may exceed `mostWidth`. METADATA_INVALID {key, found, allowed}. */
export function readFeedForward(
  m: Metadata,
  { leadingDense, shared }: FeedForwardRules,
  { layers, feedForward, mostWidth }: { layers: number; feedForward: number; mostWidth: number }
): FeedForwardSizes {
  const leading = leadingDense ? m.integer('.leading_dense_block_count', { min: 0, max: layers - 1, default: 0 }) : 0
  const wide = { max: mostWidth }
  return {
    expertLayers: layers - leading,
    denseFeedForward: leading > 0 ? m.integer('.feed_forward_length', wide) : 0,
    sharedFeedForward: shared ? readShared(m, shared, feedForward, wide) : 0
  }
}

function readShared(
  m: Metadata,
  shared: NonNullable<FeedForwardRules['shared']>,
  feedForward: number,
  wide: { max: number }
): number {
  if (shared !== 'count') {
    const own = m.integer('.expert_shared_feed_forward_length', { ...wide, min: 0, default: 0 })
    return own === 0 && shared === 'width' ? m.integer('.feed_forward_length', wide) : own
  }
  return (
    feedForward * m.integer('.expert_shared_count', { min: 0, max: Math.floor(wide.max / feedForward), default: 0 })
  )
}

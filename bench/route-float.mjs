// One decision as the models' own code makes it, in float32 or in float64: a softmax orders as its logits do; sigmoids are computed, biased and
// compared; groups by their best expert or the sum of their two best; equal numbers by index.

/** Numbers [experts] that experts are ranked by. `round`: Math.fround, or nothing for float64. */
export function ranksOf(logits, { form, bias, selectionBias }, round) {
  return logits.map((product, e) => {
    const logit = bias ? round(product + bias[e]) : product
    if (form !== 'sigmoid') return logit
    const sigmoid = round(1 / round(1 + round(Math.exp(-logit))))
    return selectionBias ? round(sigmoid + selectionBias[e]) : sigmoid
  })
}

/** Indices of the `count` largest, and how far the last of them is from the next. */
function best(values, count) {
  const order = values.map((_, i) => i).sort((a, b) => values[b] - values[a] || a - b)
  const gap = count < order.length ? values[order[count - 1]] - values[order[count]] : Number.POSITIVE_INFINITY
  return { chosen: order.slice(0, count), gap }
}

/** The experts chosen, ascending, and the smallest gap that decided: between groups, or between experts. */
export function decide(ranks, { k, groups }, round) {
  let limited = ranks
  let gap = Number.POSITIVE_INFINITY
  if (groups) {
    const size = ranks.length / groups.count
    const scores = Array.from({ length: groups.count }, (_, g) => {
      const own = Array.from(ranks.slice(g * size, (g + 1) * size)).sort((a, b) => b - a)
      return groups.score === 'top2' ? round(own[0] + own[1]) : own[0]
    })
    const kept = best(scores, groups.used)
    gap = kept.gap
    limited = ranks.map((rank, e) => (kept.chosen.includes(Math.floor(e / size)) ? rank : Number.NEGATIVE_INFINITY))
  }
  const experts = best(limited, k)
  return { ids: experts.chosen.sort((a, b) => a - b), gap: Math.min(gap, experts.gap) }
}

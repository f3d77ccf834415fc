// Writes the embedded model again as a hierarchical one (docs/hser.md): its own experts and router, and above them routers of tiers and
// groups whose rows are the means of their experts' rows.
import { rewriteGguf } from './rewrite.mjs'

/** Experts of each group of each tier; of 2 tiers 1 group each is chosen, and of that 2 experts. */
export const hierarchy = { hot: [4, 3], warm: [3, 2], cold: [4] }
const chosen = { tiers: 2, groups: 1, experts: 2 }
const groups = Object.values(hierarchy)
/** Bytes of 32 Q8_0 values. */
const [typeF32, typeQ8, blockBytes] = [0, 8, 34]

/** The mean of each of `parts` consecutive rows, as F32. */
function meanRows(rows, width, parts) {
  const out = new Float32Array(parts.length * width)
  let first = 0
  for (const [part, count] of parts.entries()) {
    for (let column = 0; column < width; column++) {
      let sum = 0
      for (let row = first; row < first + count; row++) sum += rows[row * width + column]
      out[part * width + column] = sum / count
    }
    first += count
  }
  return Buffer.from(out.buffer)
}

/** Of a file with 16 experts a layer, 4 of them used. */
export function makeHierarchical(source, target, architecture) {
  const change = (tensor, data) => {
    const { name, shape, type } = tensor
    const count = shape.reduce((product, n) => product * n, 1)
    const own = data.subarray(0, type === typeQ8 ? (count / 32) * blockBytes : count * 4)
    if (!name.includes('ffn_gate_inp')) return [{ ...tensor, data: own }]
    const [width] = shape
    const rows = Float32Array.from({ length: count }, (_, i) => own.readFloatLE(i * 4))
    const router = (kind, parts) => ({
      name: name.replace('ffn_gate_inp', `ffn_${kind}_router`),
      shape: [width, parts.length],
      type: typeF32,
      data: meanRows(rows, width, parts)
    })
    const tiers = groups.map((sizes) => sizes.reduce((sum, n) => sum + n, 0))
    return [
      router('tier', tiers),
      router('group', groups.flat()),
      { ...tensor, name: name.replace('ffn_gate_inp', 'ffn_expert_router'), data: own }
    ]
  }
  const entries = {
    tiers: Object.keys(hierarchy),
    tier_groups: groups.map((sizes) => sizes.length),
    group_experts: groups.flat(),
    tiers_used: chosen.tiers,
    groups_used: chosen.groups,
    experts_used: chosen.experts
  }
  const metadata = Object.fromEntries(Object.entries(entries).map(([key, v]) => [`${architecture}.hser.${key}`, v]))
  rewriteGguf(source, target, change, metadata)
}

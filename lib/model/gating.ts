/** How the routers of a file choose: the function of their scores, groups of experts, and the scale of the weights. */
import type { Metadata } from './metadata.js'
import type { RouteGroups } from './plan.js'

export interface GatingSizes {
  form: 'softmax_topk' | 'sigmoid'
  /** The selection has biases of its own: a tensor, so its file's list says it. */
  selectionBias: boolean
  groups?: RouteGroups
  scale: number
}

const [softmax, sigmoid] = [1, 2]

/**
 * `.expert_gating_func`, `.expert_group_count` and what belongs to them, for `experts` of which a token uses `used`. No key says what a group's
 * score is: that of its best expert with softmax (`group_limited_greedy` of DeepSeek-V2's configuration), the sum of its two best with sigmoid
 * (`noaux_tc` of V3's). METADATA_INVALID {key, found, allowed}.
 */
export function readGating(m: Metadata, experts: number, used: number): GatingSizes {
  // 0 and none: files of before the key had it, which are V2's
  const named = m.integer('.expert_gating_func', { min: 0, max: sigmoid, default: softmax })
  const form = named === sigmoid ? 'sigmoid' : 'softmax_topk'
  const scale = m.number('.expert_weights_scale', { min: 0, max: 1e6, default: 1 })
  const groups = readGroups(m, experts, used, form === 'sigmoid' ? 'top2' : 'max')
  return { form, selectionBias: false, scale: scale || 1, ...(groups && { groups }) }
}

function readGroups(m: Metadata, experts: number, used: number, score: RouteGroups['score']): RouteGroups | undefined {
  const [all, kept] = ['.expert_group_count', '.expert_group_used_count']
  const count = m.integer(all, { min: 0, max: 256, default: 0 })
  if (count <= 1) return undefined
  const each = experts / count
  if (!Number.isInteger(each) || (score === 'top2' && each < 2)) {
    m.refuse(all, `a divisor of the ${experts} experts${score === 'top2' ? ', with two or more in a group' : ''}`)
  }
  const least = Math.ceil(used / each)
  const groups = m.integer(kept, { max: count })
  if (groups < least) m.refuse(kept, `${least} to ${count}: a token uses ${used} experts`)
  return { count, used: groups, score }
}

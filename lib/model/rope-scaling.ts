/** RoPE scalings as files say them: `rope.scaling.*`. */
import { llama3Scaling, type RopeScaling, yarnMagnitude, yarnScaling } from '../kernels/rope-scaling.js'
import type { Metadata } from './metadata.js'

export interface FileScaling {
  /** None where frequencies are as they are. */
  scaling?: RopeScaling
  /** Multiplies attention's scale: DeepSeek's models stretch scores instead of cosines and sines (`yarn_log_multiplier`, which others have not). */
  scoreFactor: number
}

const types = ['none', 'linear', 'yarn', 'llama3']

/**
 * `rope.scaling.*` of a file, with the meaning and the defaults that llama.cpp gives them; `llama3` with `low_freq_factor` and
 * `high_freq_factor`, and `yarn_truncate`, are this project's own, for models that come as configuration. METADATA_INVALID {key, found, allowed}.
 */
export function readRopeScaling(m: Metadata, base: number, rotaryDim: number): FileScaling {
  const s = '.rope.scaling'
  const positive = { min: 1e-6, max: 1e6 }
  const type = m.optionalString(`${s}.type`) ?? 'linear'
  if (!types.includes(type)) m.refuse(`${s}.type`, types.join(', '))
  const factorKey = m.has(`${s}.factor`) ? `${s}.factor` : '.rope.scale_linear'
  const given = m.has(factorKey) ? m.number(factorKey, { min: 0, max: 1e6 }) : 0
  const attention = m.number(`${s}.attn_factor`, { ...positive, default: 1 })
  if (type === 'none') return { ...scaled({ factor: 1, magnitude: attention }), scoreFactor: 1 }
  const factor = given === 0 ? 1 : given
  if (factor < 1) m.refuse(factorKey, 'a number from 1 on, or 0 for none')
  if (type === 'linear') return { ...scaled({ factor, magnitude: attention }), scoreFactor: 1 }
  const originalContext = m.integer(`${s}.original_context_length`, { default: m.integer('.context_length') })
  if (type === 'llama3') {
    const lowFrequency = m.number(`${s}.low_freq_factor`, { ...positive, default: 1 })
    const highFrequency = m.number(`${s}.high_freq_factor`, { ...positive, default: 4 })
    if (highFrequency <= lowFrequency) m.refuse(`${s}.high_freq_factor`, `more than the ${lowFrequency} of the low one`)
    const scaling = llama3Scaling({ factor, originalContext, lowFrequency, highFrequency })
    return { scaling: { ...scaling, magnitude: attention }, scoreFactor: 1 }
  }
  if (base <= 1) m.refuse('.rope.freq_base', 'more than 1 where frequencies are scaled as in YaRN')
  if (m.number(`${s}.yarn_attn_factor`, { default: 1 }) !== 1) m.refuse(`${s}.yarn_attn_factor`, '1')
  const betaFast = m.number(`${s}.yarn_beta_fast`, { ...positive, default: 32 })
  const betaSlow = m.number(`${s}.yarn_beta_slow`, { ...positive, default: 1 })
  // a negative one says that none was set
  const extrapolation = m.number(`${s}.yarn_ext_factor`, { min: -1, max: 1, default: 1 })
  const share = extrapolation < 0 ? 1 : extrapolation
  const truncate = m.boolean(`${s}.yarn_truncate`, true)
  const multiplier = m.number(`${s}.yarn_log_multiplier`, { min: 0, max: 10, default: 0 }) / 0.1
  const magnitude = attention * (share === 0 || multiplier > 0 ? 1 : yarnMagnitude(factor))
  const yarn = {
    factor,
    base,
    rotaryDim,
    originalContext,
    betaFast,
    betaSlow,
    extrapolation: share,
    truncate,
    magnitude
  }
  return { scaling: yarnScaling(yarn), scoreFactor: multiplier > 0 ? yarnMagnitude(factor, multiplier) ** 2 : 1 }
}

const scaled = (scaling: RopeScaling): Pick<FileScaling, 'scaling'> =>
  scaling.factor === 1 && scaling.magnitude === 1 ? {} : { scaling }

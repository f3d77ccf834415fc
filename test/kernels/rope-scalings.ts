/** Scaled rotary frequencies as the papers and transformers write them, for tests of rope. */
import { llama3Scaling, type RopeScaling, yarnScaling } from 'tiered-moe/kernels'

export interface ScaledRope {
  name: string
  base: number
  rotaryDim: number
  scaling?: RopeScaling
  divisors?: Float32Array
  frequencies: number[]
  magnitude: number
}

const plain = (base: number, rotaryDim: number) =>
  Array.from({ length: rotaryDim / 2 }, (_, i) => base ** ((-2 * i) / rotaryDim))

/** YaRN, equations 17 to 23 of the paper, with the bounds of a pair floored and ceiled as its code does, or (`truncate` false) as they are. */
function yarn(
  base: number,
  rotaryDim: number,
  factor: number,
  originalContext: number,
  betaFast: number,
  betaSlow: number,
  truncate: boolean
) {
  const pairOf = (turns: number) =>
    (rotaryDim * Math.log(originalContext / (turns * 2 * Math.PI))) / (2 * Math.log(base))
  const [floor, ceil] = truncate ? [Math.floor, Math.ceil] : [Number, Number]
  const low = Math.max(floor(pairOf(betaFast)), 0)
  const high = Math.min(ceil(pairOf(betaSlow)), rotaryDim - 1)
  return plain(base, rotaryDim).map((f, i) => {
    const ramp = Math.min(Math.max((i - low) / Math.max(high - low, 0.001), 0), 1)
    return (f / factor) * ramp + f * (1 - ramp)
  })
}

/** By wave lengths, as transformers has it. */
function llama3(base: number, rotaryDim: number, factor: number, originalContext: number, low: number, high: number) {
  return plain(base, rotaryDim).map((f) => {
    const length = (2 * Math.PI) / f
    if (length < originalContext / high) return f
    if (length > originalContext / low) return f / factor
    const smooth = (originalContext / length - low) / (high - low)
    return ((1 - smooth) * f) / factor + smooth * f
  })
}

function yarnCase(
  name: string,
  base: number,
  rotaryDim: number,
  factor: number,
  originalContext: number,
  truncate = true
): ScaledRope {
  const [betaFast, betaSlow] = [32, 1]
  return {
    name,
    base,
    rotaryDim,
    scaling: yarnScaling({ factor, base, rotaryDim, originalContext, betaFast, betaSlow, truncate }),
    frequencies: yarn(base, rotaryDim, factor, originalContext, betaFast, betaSlow, truncate),
    magnitude: 1 + 0.1 * Math.log(factor)
  }
}

const divisors = Float32Array.from({ length: 16 }, (_, i) => 1 + i / 2)

export const scaledRopes: ScaledRope[] = [
  {
    name: 'linear',
    base: 10_000,
    rotaryDim: 24,
    scaling: { factor: 4, magnitude: 1 },
    frequencies: plain(10_000, 24).map((f) => f / 4),
    magnitude: 1
  },
  yarnCase('yarn of gpt-oss', 150_000, 64, 32, 4096),
  yarnCase('yarn of gpt-oss, not truncated', 150_000, 64, 32, 4096, false),
  yarnCase('yarn with no pair between its bounds', 10_000, 8, 2.5, 6),
  yarnCase('yarn where most pairs are kept', 1e6, 128, 4, 131_072),
  {
    name: 'llama3',
    base: 500_000,
    rotaryDim: 128,
    scaling: llama3Scaling({ factor: 8, originalContext: 8192, lowFrequency: 1, highFrequency: 4 }),
    frequencies: llama3(500_000, 128, 8, 8192, 1, 4),
    magnitude: 1
  },
  {
    name: 'divisors',
    base: 10_000,
    rotaryDim: 32,
    divisors,
    frequencies: plain(10_000, 32).map((f, i) => f / divisors[i]!),
    magnitude: 1
  }
]

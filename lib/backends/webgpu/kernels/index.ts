/** The kernels that this backend has; each is a file of its name. */
import type { KernelName } from '../../../kernels/requests.js'
import { allToAllPack, allToAllUnpack } from './all-to-all.js'
import { attention } from './attention.js'
import type { GpuKernel } from './call.js'
import { combine } from './combine.js'
import { dequantize } from './dequantize.js'
import { dispatch } from './dispatch.js'
import { embed } from './embed.js'
import { expertMatmul } from './expert-matmul.js'
import { logits } from './logits.js'
import { rmsNorm } from './rms-norm.js'
import { rope } from './rope.js'
import { route } from './route.js'
import { sample } from './sample.js'

export const gpuKernels = {
  allToAllPack,
  allToAllUnpack,
  attention,
  combine,
  dequantize,
  dispatch,
  embed,
  expertMatmul,
  logits,
  rmsNorm,
  rope,
  route,
  sample
} satisfies { [Name in KernelName]?: GpuKernel<Name> }

export type GpuKernelName = keyof typeof gpuKernels

/** The kernels that this backend has; each is a file of its name. */
import type { KernelName } from '../../../kernels/requests.js'
import type { GpuKernel } from './call.js'
import { rmsNorm } from './rms-norm.js'

export const gpuKernels = { rmsNorm } satisfies { [Name in KernelName]?: GpuKernel<Name> }

export type GpuKernelName = keyof typeof gpuKernels

/** From an adapter to a device: features where they are offered, limits by name. */
import { createError } from '../../errors/index.js'
import { limitExceeded } from './failures.js'
import type { DeviceFacts, DeviceLimits, LimitName } from './launches/launch.js'
import { limitNames } from './launches/launch.js'

/** Where WebGPU comes from: `navigator.gpu` in a browser, `nodeGpu` in Node. */
export type GpuProvider = () => GPU | Promise<GPU>

/** What a shader may use where the adapter has it. */
export type OptionalFeature = 'subgroups' | 'f16' | 'dot4' | 'timestamps'

const featureNames = { subgroups: 'subgroups', f16: 'shader-f16', timestamps: 'timestamp-query' } as const

export interface OpenedDevice {
  device: GPUDevice
  info: GPUAdapterInfo
  name: string
  facts: DeviceFacts
}

const limitsOf = (from: GPUSupportedLimits): DeviceLimits =>
  Object.fromEntries(limitNames.map((name) => [name, from[name]])) as Record<LimitName, number>

/**
 * Asks for the adapter's own limits, and for those of `needed`. Throws GPU_ADAPTER_UNAVAILABLE, GPU_LIMIT_EXCEEDED {limit, required,
 * available} where the adapter has less than `needed`, what the provider throws. `without`: features that are left alone.
 */
export async function openDevice(
  provider: GpuProvider,
  needed: Readonly<Partial<Record<LimitName, number>>>,
  without: readonly OptionalFeature[]
): Promise<OpenedDevice> {
  const gpu = await provider()
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' })
  if (!adapter) throw createError('GPU_ADAPTER_UNAVAILABLE', 'WebGPU found no adapter on this machine', {})
  const { info } = adapter
  const name = info.device || info.description || info.vendor || 'the GPU'
  const offered = limitsOf(adapter.limits)
  for (const [limit, required] of Object.entries(needed) as [LimitName, number][]) {
    const available = offered[limit]
    const enough = limit.startsWith('min') ? required >= available : required <= available
    if (!enough) throw limitExceeded(name, limit, required, available)
  }

  const wanted = (feature: OptionalFeature) => !without.includes(feature)
  const features = (Object.keys(featureNames) as (keyof typeof featureNames)[]).filter(
    (feature) => wanted(feature) && adapter.features.has(featureNames[feature])
  )
  const device = await adapter
    .requestDevice({ requiredFeatures: features.map((feature) => featureNames[feature]), requiredLimits: offered })
    .catch((cause) => {
      throw createError(
        'GPU_ADAPTER_UNAVAILABLE',
        `${name} gave no device: ${String(cause)}`,
        { device: name },
        { cause }
      )
    })
  const subgroups = features.includes('subgroups')
  const facts: DeviceFacts = {
    subgroups,
    subgroupMin: subgroups ? (info.subgroupMinSize ?? 0) : 0,
    subgroupMax: subgroups ? (info.subgroupMaxSize ?? 0) : 0,
    f16: features.includes('f16'),
    dot4: wanted('dot4') && (gpu.wgslLanguageFeatures?.has('packed_4x8_integer_dot_product') ?? false),
    timestamps: features.includes('timestamps'),
    limits: limitsOf(device.limits)
  }
  return { device, info, name, facts }
}

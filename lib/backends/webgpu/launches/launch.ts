/** What a shader is started with. Launches are plain values: functions of shapes and device facts make them, without a device. */

export type Defines = Readonly<Record<string, number | string | boolean>>

export interface Launch {
  /** shaders/<shader>.wgsl */
  shader: string
  defines: Defines
  workgroups: readonly [x: number, y: number, z: number]
  /** Words of the shader's `struct Params`, a multiple of 16 bytes. */
  params: Uint32Array
}

/** The limits that launches and buffers look at, as WebGPU names them; sizes in bytes. */
export const limitNames = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxUniformBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupSizeY',
  'maxComputeWorkgroupSizeZ',
  'maxComputeWorkgroupsPerDimension',
  'minStorageBufferOffsetAlignment'
] as const
export type LimitName = (typeof limitNames)[number]
export type DeviceLimits = Readonly<Record<LimitName, number>>

/** All that a launch may know of a device. None of it changes routes. */
export interface DeviceFacts {
  subgroups: boolean
  /** Sizes that a subgroup may have; 0 without subgroups. */
  subgroupMin: number
  subgroupMax: number
  f16: boolean
  /** `dot4I8Packed` and its kin. */
  dot4: boolean
  timestamps: boolean
  limits: DeviceLimits
}

const scratch = new DataView(new ArrayBuffer(4))

/** A float's bits, for `words`. */
export function bits(value: number): number {
  scratch.setFloat32(0, value)
  return scratch.getUint32(0)
}

/** Words of a `struct Params`: u32 and i32 as they are, f32 through `bits`. Filled up to 16 bytes. */
export function words(...values: number[]): Uint32Array {
  const out = new Uint32Array(Math.max(4, Math.ceil(values.length / 4) * 4))
  out.set(values.map((value) => value >>> 0))
  return out
}

/** `count` workgroups in a row, folded where a dimension is too short: a shader's number is group.x + group.y · groups.x, and may be past the end. */
export function grid(count: number, { limits }: Pick<DeviceFacts, 'limits'>): [number, number, 1] {
  const most = limits.maxComputeWorkgroupsPerDimension
  if (count <= most) return [count, 1, 1]
  const y = Math.ceil(count / most)
  return [Math.ceil(count / y), y, 1]
}

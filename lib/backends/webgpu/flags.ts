/** Numbers of the WebGPU specification that browsers have as globals (GPUBufferUsage, GPUMapMode, GPUShaderStage). */

export const usage = {
  mapRead: 0x0001,
  copySrc: 0x0004,
  copyDst: 0x0008,
  uniform: 0x0040,
  storage: 0x0080,
  indirect: 0x0100,
  queryResolve: 0x0200
} as const

export const mapRead = 0x0001
export const computeStage = 0x0004

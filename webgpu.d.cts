/** The WebGPU implementation of this process, from the optional package `webgpu`. Rejects where that is not installed or cannot be loaded. */
declare const loaded: { open(): Promise<unknown> }
export = loaded

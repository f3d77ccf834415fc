/** The loaded native addon, or undefined with the places that were tried and why each failed. */
declare const loaded: {
  addon: unknown
  /** The same for the addon that runs on CUDA, looked for at the call. */
  cuda(): { addon: unknown; tried: { request: string; reason: string }[] }
  tried: { request: string; reason: string }[]
  platform: string
  /** The folder of this package. */
  root: string
}
export = loaded

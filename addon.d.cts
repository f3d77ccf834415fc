/** The loaded native addon, or undefined with the places that were tried and why each failed. */
declare const loaded: {
  addon: unknown
  tried: { request: string; reason: string }[]
  platform: string
  /** The folder of this package. */
  root: string
}
export = loaded

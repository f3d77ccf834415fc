'use strict'
// Finds and loads the native addon. CommonJS, so that the ESM and the CommonJS build share one instance of it.
const { join } = require('node:path')

const platform = `${process.platform}-${process.arch}`
const tried = []

function load(request, failures = tried) {
  try {
    return require(request)
  } catch (cause) {
    failures.push({ request, reason: String(cause.message).split('\n')[0] })
    return undefined
  }
}

const override = process.env.TIERED_MOE_ADDON
const addon = override
  ? load(override)
  : (load(join(__dirname, 'build', 'Release', 'tiered_moe.node')) ?? load(`@tiered-moe/${platform}`))

/** The same addon with its executor on CUDA: another binary, looked for only when somebody asks for it. */
function cuda() {
  const failures = []
  const path = process.env.TIERED_MOE_CUDA_ADDON
  const found = path
    ? load(path, failures)
    : (load(join(__dirname, 'build-cuda', 'Release', 'tiered_moe_cuda.node'), failures) ??
      load(`@tiered-moe/${platform}-cuda`, failures))
  return { addon: found, tried: failures }
}

module.exports = { addon, cuda, tried, platform, root: __dirname }

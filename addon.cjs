'use strict'
// Finds and loads the native addon. CommonJS, so that the ESM and the CommonJS build share one instance of it.
const { join } = require('node:path')

const platform = `${process.platform}-${process.arch}`
const tried = []

function load(request) {
  try {
    return require(request)
  } catch (cause) {
    tried.push({ request, reason: String(cause.message).split('\n')[0] })
    return undefined
  }
}

const override = process.env.TIERED_MOE_ADDON
const addon = override
  ? load(override)
  : (load(join(__dirname, 'build', 'Release', 'tiered_moe.node')) ?? load(`@tiered-moe/${platform}`))

module.exports = { addon, tried, platform, root: __dirname }

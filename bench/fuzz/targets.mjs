// What is fuzzed beside the addon: each name gives `make(draw)`, one input, and `parse(input)`, which may return what came of it. Whatever `parse` throws
// has to be a typed error.
import * as channel from './targets/channel.mjs'
import * as files from './targets/files.mjs'
import * as models from './targets/models.mjs'
import * as safetensors from './targets/safetensors.mjs'
import * as schemas from './targets/schemas.mjs'
import * as server from './targets/server.mjs'
import * as settings from './targets/settings.mjs'
import * as tokens from './targets/tokens.mjs'
import * as wire from './targets/wire.mjs'

export const targets = {
  ...files,
  ...settings,
  ...models,
  ...safetensors,
  ...tokens,
  ...wire,
  ...channel,
  ...server,
  ...schemas
}

/** Inputs of a full run; the short one takes `short` of them. Those that are alike share the time they take. */
export const quotas = {
  manifest: { full: 80_000, short: 1000 },
  checkpoint: { full: 20_000, short: 100 },
  journal: { full: 100_000, short: 1000 },
  audit: { full: 60_000, short: 800 },
  trace: { full: 60_000, short: 800 },
  config: { full: 60_000, short: 250 },
  variables: { full: 20_000, short: 100 },
  tiers: { full: 80_000, short: 1000 },
  statistics: { full: 20_000, short: 400 },
  header: { full: 60_000, short: 800 },
  index: { full: 30_000, short: 400 },
  folder: { full: 20_000, short: 150 },
  metadata: { full: 60_000, short: 800 },
  requests: { full: 60_000, short: 1000 },
  errors: { full: 60_000, short: 1000 },
  frames: { full: 60_000, short: 1000 },
  calls: { full: 40_000, short: 600 },
  bodies: { full: 30_000, short: 200 },
  schemas: { full: 40_000, short: 250 },
  tokenizers: { full: 40_000, short: 400 },
  texts: { full: 40_000, short: 400 },
  templates: { full: 20_000, short: 200 },
  http: { full: 30_000, short: 200 }
}

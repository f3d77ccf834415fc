// Parsers of what people write: the configuration, its variables, tiers, statistics.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { assignTiers } from '../../../dist/esm/checkpoint/tiers.js'
import { parseTiers, readStatistics } from '../../../dist/esm/checkpoint/tiers-file.js'
import { yamlOf } from '../../../dist/esm/config/print.js'
import { loadRuntimeConfig } from '../../../dist/esm/runtime-config.js'
import { mutatedText, mutatedValue } from '../mutate.mjs'
import { temporaryFolder } from './files.mjs'

const yamlWords = [
  '&a ',
  '*a',
  '<<: *a',
  '- ',
  ': ',
  '? ',
  '|\n',
  '>-\n',
  '!!binary ',
  '---\n',
  '%YAML 1.1\n',
  '[',
  '{',
  '# ',
  '\t',
  "'",
  '"',
  '~'
]

const own = {
  engine: { backend: 'cpu', threads: 2, max_batch_tokens: 64, memory: '2GiB' },
  models: [{ id: 'a', model: 'a.gguf', context_length: 512, memory: '64MiB' }],
  timeouts: { request_ms: 30_000, inference_ms: 25_000, cleanup_ms: 5000 },
  environments: { production: { engine: { threads: 8 } }, test: { timeouts: { request_ms: 60_000 } } }
}

const written = (draw, value) => (draw.chance(0.5) ? stringify(value) : JSON.stringify(value))

export async function config() {
  const { config: defaults } = await loadRuntimeConfig({ text: '', env: {} })
  const samples = [yamlOf(defaults), stringify(own), JSON.stringify(own)]
  return {
    make: (draw) => (draw.chance(0.5) ? mutatedText(draw, samples, yamlWords) : written(draw, mutatedValue(draw, own))),
    async parse(text) {
      await loadRuntimeConfig({ text, env: { TIERED_MOE_ENV: text.length % 2 ? 'production' : '' } })
    }
  }
}

/** Variables that go over a file. */
export async function variables() {
  const names = [
    'ENGINE__THREADS',
    'ENGINE',
    'MODELS',
    'TIMEOUTS__REQUEST_MS',
    'ENGINE__MEMORY',
    'ENVIRONMENTS',
    '__',
    'MODELS__0__ID',
    '__PROTO__'
  ]
  const values = ['8', '2GiB', '[1, 2]', '{a: 1}', 'true', '"x"', '[{id: a, model: b}]']
  return {
    make: (draw) =>
      Object.fromEntries(
        Array.from({ length: 1 + draw.below(4) }, () => [
          `TIERED_MOE__${draw.chance(0.7) ? draw.pick(names) : mutatedText(draw, names)}`,
          mutatedText(draw, values, yamlWords)
        ])
      ),
    parse: async (env) => {
      await loadRuntimeConfig({ text: stringify(own), env })
    }
  }
}

const tierFile = {
  tiers: [
    { name: 'hot', placement: 'hot', budget: '64MiB', experts: [0, '1-3'] },
    { name: 'warm', placement: 'warm', experts: { 0: [4], '1-3': ['4-5'] } },
    { name: 'cold', placement: 'cold', experts: 'rest' }
  ]
}
const shareFile = {
  tiers: [
    { name: 'hot', placement: 'hot', experts: { share: 0.5 } },
    { name: 'cold', placement: 'cold' }
  ]
}
const counts = { layers: Array.from({ length: 4 }, (_, i) => Array.from({ length: 8 }, (_, j) => i * j)) }

export async function tiers() {
  const samples = [stringify(tierFile), stringify(shareFile), JSON.stringify(tierFile)]
  return {
    make(draw) {
      if (draw.chance(0.4)) return mutatedText(draw, samples, [...yamlWords, '0-9999', 'share: '])
      return written(draw, mutatedValue(draw, draw.pick([tierFile, shareFile])))
    },
    parse: (text) => {
      assignTiers(parseTiers(text, 'tiers.yaml'), 4, 8, counts)
    }
  }
}

export async function statistics() {
  const path = join(temporaryFolder(), 'statistics.json')
  return {
    make: (draw) =>
      draw.chance(0.4) ? mutatedText(draw, [JSON.stringify(counts)]) : JSON.stringify(mutatedValue(draw, counts)),
    async parse(text) {
      writeFileSync(path, text)
      assignTiers(parseTiers(stringify(shareFile), 'tiers.yaml'), 4, 8, await readStatistics(path))
    }
  }
}

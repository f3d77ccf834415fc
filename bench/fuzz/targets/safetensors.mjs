// Folders of safetensors files: what others write, with sizes, types and places that may be anything.
import { mkdirSync, writeFileSync } from 'node:fs'
import { register } from 'node:module'
import { join } from 'node:path'
import { createEngine } from '../../../dist/esm/index.js'
import { parseHeader } from '../../../dist/esm/safetensors/header.js'
import { parseIndex } from '../../../dist/esm/safetensors/shards.js'
import { mutatedBytes, mutatedValue } from '../mutate.mjs'
import { temporaryFolder } from './files.mjs'

register('../../../scripts/test-hooks.mjs', import.meta.url)

const tiny = {
  type: 'F16',
  vocab: 260,
  layers: 1,
  experts: 2,
  embedding: 32,
  heads: 2,
  kvHeads: 1,
  headDim: 16,
  feedForward: 32,
  contextLength: 64
}

/** Models of every architecture, as folders; gpt-oss in both of its forms. */
async function samples() {
  const { encodeSafetensors, modelFolder } = await import('../../../test/fixtures/safetensors.ts')
  const { forms } = await import('../../../test/fixtures/folder-forms.ts')
  const shapes = [
    ...Object.keys(forms).map((architecture) => ({ architecture })),
    { architecture: 'gpt-oss', mxfp4: true }
  ]
  return shapes.map((own) => {
    const made = modelFolder({ ...tiny, ...own })
    const bytes = encodeSafetensors(made.tensors)
    return { ...made, bytes, json: bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE())) }
  })
}

const words = [
  '"dtype":"F16"',
  '"shape":[',
  '"data_offsets":[0,',
  '__proto__',
  '__metadata__',
  '{"',
  '9007199254740993',
  '1e308'
]

/** JSON with changed values, or bytes that were some. */
const damaged = (draw, json) =>
  draw.chance(0.3)
    ? mutatedBytes(draw, [json], words)
    : Buffer.from(JSON.stringify(mutatedValue(draw, JSON.parse(json.toString()))))

/** A header as its own parser sees it. */
export async function header() {
  const made = await samples()
  return {
    make(draw) {
      const { json, bytes } = draw.pick(made)
      const own = damaged(draw, json)
      return {
        json: own.toString('latin1'),
        fileBytes: draw.chance(0.8) ? bytes.length - json.length + own.length : draw.below(2 * bytes.length)
      }
    },
    parse({ json, fileBytes }) {
      const bytes = Buffer.from(json, 'latin1')
      for (const tensor of parseHeader(bytes, fileBytes, 'model.safetensors')) {
        if (tensor.offset < 8 + bytes.length || tensor.offset + tensor.bytes > fileBytes)
          throw new TypeError('it lies outside')
      }
    }
  }
}

export async function index() {
  const [{ tensors }] = await samples()
  const map = Object.fromEntries(tensors.map(({ name }, i) => [name, `model-0000${1 + (i % 3)}-of-00003.safetensors`]))
  const json = Buffer.from(JSON.stringify({ metadata: { total_size: 1 }, weight_map: map }))
  return {
    make: (draw) => damaged(draw, json),
    parse(input) {
      for (const file of parseIndex(input, 'index').values()) {
        if (file.includes('/') || file.includes('\\') || file.startsWith('.'))
          throw new TypeError('it leads out of the folder')
      }
    }
  }
}

/** A whole folder with one file damaged, opened and run. */
export async function folder() {
  const made = await samples()
  const path = temporaryFolder()
  mkdirSync(path, { recursive: true })
  const engine = await createEngine({ threads: 1 })
  return {
    make(draw) {
      const { config, tokenizer, json, bytes } = draw.pick(made)
      const files = {
        'config.json': Buffer.from(JSON.stringify(config)),
        'tokenizer.json': Buffer.from(JSON.stringify(tokenizer)),
        'model.safetensors': bytes
      }
      const name = draw.pick(Object.keys(files))
      const own = name === 'model.safetensors' ? damaged(draw, json) : damaged(draw, files[name])
      if (name !== 'model.safetensors') files[name] = own
      else {
        const length = Buffer.alloc(8)
        length.writeBigUInt64LE(BigInt(own.length))
        files[name] = Buffer.concat([length, own, bytes.subarray(8 + json.length)])
      }
      return Object.fromEntries(Object.entries(files).map(([name, file]) => [name, file.toString('latin1')]))
    },
    async parse(input) {
      for (const [name, file] of Object.entries(input)) writeFileSync(join(path, name), Buffer.from(file, 'latin1'))
      const { id } = await engine.loadModel({ model: path, id: 'folder', memory: '64MiB', contextLength: 32 })
      try {
        await engine.generate({ model: id, promptTokens: [1, 2, 3], maxTokens: 2, ignoreEos: true })
      } finally {
        await engine.unloadModel(id)
      }
    }
  }
}

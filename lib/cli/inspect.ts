/** `tiered-moe inspect`: what is in a file, without loading its weights. A file that cannot be run is shown as far as it goes. */
import type { Command } from 'commander'
import { readManifest } from '../checkpoint/folder.js'
import { isCheckpoint, readSoundManifest } from '../checkpoint/sound-manifest.js'
import { locateModel } from '../model/embedded.js'
import { type ModelDescriptor, readModel } from '../model/index.js'
import { type GgufMetadataValue, type NativeGguf, native, packageRoot } from '../native.js'
import { isModelFolder } from '../safetensors/model-folder.js'
import { openWeights } from '../safetensors/open.js'
import { filePath } from './arguments.js'
import { formatBytes, formatCount, formatPairs, formatTable, printable } from './format.js'
import { showCheckpoint } from './inspect-checkpoint.js'
import type { Session } from './session.js'

/** Long lists are told by their length and first entries. */
function showValue(value: GgufMetadataValue): string {
  if (!Array.isArray(value)) return printable(String(value))
  const first = value.slice(0, 4).map((item) => printable(String(item), 20))
  return `[${first.join(', ')}${value.length > 4 ? ', …' : ''}] (${value.length})`
}

function summary(d: ModelDescriptor): string {
  return formatPairs([
    ['name', printable(d.name ?? '(none)')],
    ['architecture', d.architecture],
    ['parameters', `${formatCount(d.parameters)}, ${formatCount(d.activeParameters)} used per token`],
    ['layers', String(d.layers)],
    ['width', String(d.embedding)],
    ['heads', `${d.heads} of ${d.headDim}, ${d.kvHeads} for keys and values`],
    [
      'experts',
      `${d.experts} per layer, ${d.expertsUsed} used; ${d.expertFeedForward} wide, ${formatBytes(d.expertBytes)} each`
    ],
    ['vocabulary', String(d.vocab)],
    ['context', `${d.contextLength} tokens`],
    ['chat template', d.hasChatTemplate ? 'yes' : 'no']
  ])
}

function partTable(d: ModelDescriptor): string {
  const rows = Object.entries(d.parts).map(([part, { tensors, parameters, bytes, types }]) => [
    part,
    String(tensors),
    formatCount(parameters),
    formatBytes(bytes),
    types.join(' ')
  ])
  return formatTable([['part', 'tensors', 'parameters', 'size', 'types'], ...rows])
}

function show(file: NativeGguf, descriptor: ModelDescriptor | undefined, session: Session): void {
  const format = isModelFolder(file.path) ? 'safetensors' : `GGUF v${file.version}`
  session.write(`${file.path}: ${format}, ${formatBytes(file.fileBytes)}, ${file.tensors.length} tensors\n`)
  if (descriptor) session.write(`\n${summary(descriptor)}\n${partTable(descriptor)}`)
  const metadata = Object.entries(file.metadata).map(([key, value]) => [printable(key), showValue(value)] as const)
  session.write(`\nmetadata\n${formatPairs(metadata)}`)
}

export function addInspect(program: Command, session: Session): void {
  program
    .command('inspect')
    .description('show architecture, experts, sizes and metadata of a model, or the tiers of a checkpoint')
    .argument(
      '[model]',
      'a GGUF file, a folder of safetensors files or of a tiered checkpoint, or the name of an embedded model',
      filePath
    )
    .option('--json', 'all of it as one JSON object, with every tensor and the whole metadata')
    .action(async (model: string | undefined, options: { json?: boolean }) => {
      const { path: location } = locateModel(packageRoot(), model)
      if (await isCheckpoint(location)) {
        const manifest = await readManifest(location)
        if (options.json) session.json({ path: location, manifest })
        else showCheckpoint(location, manifest, session)
        await readSoundManifest(native(), location)
        return
      }
      const file = await openWeights(native(), location, 'inspect')
      try {
        let descriptor: ModelDescriptor | undefined
        let failure: unknown
        try {
          descriptor = readModel(file).descriptor
        } catch (error) {
          failure = error
        }
        const { path, version, fileBytes, metadata, tensors } = file
        if (options.json) session.json({ path, version, fileBytes, model: descriptor ?? null, metadata, tensors })
        else show(file, descriptor, session)
        if (failure !== undefined) throw failure
      } finally {
        file.close()
      }
    })
}

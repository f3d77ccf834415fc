/** `tiered-moe quantize`: writes a smaller file. */
import { statSync } from 'node:fs'
import type { Command } from 'commander'
import { createError } from '../errors/index.js'
import { locateModel } from '../model/embedded.js'
import { type LoadProgress, type NativeAddon, type NativeCancel, native, packageRoot } from '../native.js'
import { isModelFolder, modelFiles } from '../safetensors/model-folder.js'
import { openModelFolder } from '../safetensors/open.js'
import { filePath, quantizedType } from './arguments.js'
import { formatBytes, formatMilliseconds } from './format.js'
import type { Session } from './session.js'

interface QuantizeOptions {
  type: 'Q8_0' | 'Q4_0'
  json?: boolean
}

/** What cannot be looked at is the addon's to refuse. */
function statIfThere(path: string) {
  try {
    return statSync(path, { bigint: true })
  } catch {
    return undefined
  }
}

/** The output takes the place of its name at the end, so writing over the input would lose it. */
function refuseSameFile(from: string, to: string): void {
  const taken = statIfThere(to)
  const inputs = isModelFolder(from) ? modelFiles(from) : [from]
  const same = inputs.map(statIfThere).some((own) => own && taken && own.ino === taken.ino && own.dev === taken.dev)
  if (!same) return
  throw createError('VALIDATION_ERROR', `quantize: ${to} is an input file`, {
    path: 'out',
    found: to,
    allowed: 'another file'
  })
}

/** A GGUF file of a folder's model. Its tensors are converted as they are read, so that writing them down is all. */
async function quantizeFolder(
  addon: NativeAddon,
  folder: string,
  to: string,
  { type, onProgress }: { type: QuantizeOptions['type']; onProgress: (progress: LoadProgress) => void },
  cancel: NativeCancel
): Promise<{ bytes: number; before: number }> {
  const file = await openModelFolder(addon, folder, type)
  try {
    const { bytes } = await addon.writeBase(file, to, { leaveOut: [], onProgress }, cancel)
    return { bytes, before: modelFiles(folder).reduce((sum, path) => sum + statSync(path).size, 0) }
  } finally {
    file.close()
  }
}

export function addQuantize(program: Command, session: Session): void {
  program
    .command('quantize')
    .description('write a file with smaller weights: matrices quantised, norms and routers kept')
    .argument('<in>', 'a GGUF file with F32, F16 or BF16 weights, or a folder of safetensors files', filePath)
    .argument('<out>', 'the file to write; one of that name is replaced when the new one is whole', filePath)
    .option(
      '--type <type>',
      'type of the matrices, q8_0 or q4_0 (the output matrix becomes Q8_0)',
      quantizedType,
      'Q8_0'
    )
    .option('--json', 'one JSON object')
    .action(async (from: string, to: string, options: QuantizeOptions) => {
      const { path } = locateModel(packageRoot(), from)
      refuseSameFile(path, to)
      const addon = native()
      const cancel = addon.createCancel()
      session.signal.addEventListener('abort', () => cancel.cancel(), { once: true })
      const started = performance.now()
      const { type } = options
      const onProgress = (progress: LoadProgress) => session.progress('quantising', progress)
      const { bytes, before } = isModelFolder(path)
        ? await quantizeFolder(addon, path, to, { type, onProgress }, cancel)
        : { ...(await addon.quantizeGguf(path, to, { type, onProgress }, cancel)), before: statSync(path).size }
      const seconds = performance.now() - started
      if (options.json) session.json({ from: path, to, type, bytes, bytesBefore: before, milliseconds: seconds })
      else
        session.write(
          `${to}: ${formatBytes(bytes)} from ${formatBytes(before)}, ${type}, ${formatMilliseconds(seconds)}\n`
        )
    })
}

/** `tiered-moe convert`: makes a tiered checkpoint. */
import { type Command, Option } from 'commander'
import { convertModel, type Manifest } from '../checkpoint/index.js'
import { locateModel } from '../model/embedded.js'
import { packageRoot } from '../native.js'
import { filePath, given, quantizedType } from './arguments.js'
import { formatBytes, formatMilliseconds, formatTable } from './format.js'
import { measureRouting } from './measure-routing.js'
import type { Session } from './session.js'

interface ConvertChoices {
  quantize?: 'Q8_0' | 'Q4_0'
  tiers?: string
  statistics?: string
  text?: string
  archiveUrl?: string
  replace?: boolean
  json?: boolean
}

/** What each tier of a checkpoint has. */
export function tierTable({ tiers }: Manifest): string {
  const rows = tiers.map(({ name, placement, experts, bytes, budget }) => [
    name,
    placement,
    String(experts),
    formatBytes(bytes),
    budget === undefined ? '' : formatBytes(budget)
  ])
  return formatTable([['tier', 'placement', 'experts', 'size', 'budget'], ...rows])
}

export function addConvert(program: Command, session: Session): void {
  program
    .command('convert')
    .description('make a tiered checkpoint: one aligned blob per expert, in the layout of the kernels')
    .argument(
      '<from>',
      'a GGUF file, a folder of safetensors files, an embedded model, or the folder of another checkpoint',
      filePath
    )
    .argument('<folder>', 'the folder to write; a conversion that was cut short goes on', filePath)
    .option(
      '--tiers <file|measured>',
      'a YAML file, or measured: the more used half of each layer is hot (default: one tier)',
      filePath
    )
    .addOption(
      new Option('--text <file>', 'measure the use by running this text (tiers default to measured)')
        .argParser(filePath)
        .conflicts('statistics')
    )
    .option(
      '--statistics <file>',
      'JSON with how often each expert was used: {"layers": [[count, ...], ...]}',
      filePath
    )
    .option('--archive-url <url>', 'written into the manifest: where the files of archive tiers will be')
    .option('--quantize <type>', 'of safetensors files: q8_0 or q4_0 matrices (default: as they are)', quantizedType)
    .option('--replace', 'take the place of another checkpoint in the folder')
    .option('--json', 'one JSON object')
    .action(
      async (
        from: string,
        to: string,
        { quantize, tiers, statistics, text, archiveUrl, replace, json }: ConvertChoices
      ) => {
        const started = performance.now()
        const { path } = locateModel(packageRoot(), from)
        const measured = text === undefined ? undefined : await measureRouting(path, text, session, quantize)
        const choice = given({
          quantize,
          tiers: tiers ?? (measured && 'measured'),
          statistics: measured ?? statistics,
          archiveUrl,
          replace
        })
        const { manifest, bytes, written, kept } = await convertModel(
          { from: path, to, ...choice },
          { signal: session.signal, onProgress: (progress) => session.progress(progress.file, progress) }
        )
        const milliseconds = performance.now() - started
        if (json) {
          session.json({ from: path, to, bytes, written, kept, tiers: manifest.tiers, milliseconds })
          return
        }
        const files = kept === 0 ? `${written} files` : `${written} files written, ${kept} kept`
        session.write(
          `${to}: ${formatBytes(bytes)}, ${files}, ${formatMilliseconds(milliseconds)}\n\n${tierTable(manifest)}`
        )
      }
    )
}

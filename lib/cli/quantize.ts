/** `tiered-moe quantize`: writes a smaller file. */
import { statSync } from 'node:fs'
import { type Command, InvalidArgumentError } from 'commander'
import { createError } from '../errors/index.js'
import { locateModel } from '../model/embedded.js'
import { native, packageRoot } from '../native.js'
import { filePath } from './arguments.js'
import { formatBytes, formatMilliseconds } from './format.js'
import type { Session } from './session.js'

interface QuantizeOptions {
  type: 'Q8_0' | 'Q4_0'
  json?: boolean
}

function typeOf(text: string): QuantizeOptions['type'] {
  const type = text.toUpperCase()
  if (type === 'Q8_0' || type === 'Q4_0') return type
  throw new InvalidArgumentError('Allowed is q8_0 or q4_0.')
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
  const [a, b] = [from, to].map(statIfThere)
  if (!a || !b || a.ino !== b.ino || a.dev !== b.dev) return
  throw createError('VALIDATION_ERROR', `quantize: ${to} is the input file`, {
    path: 'out',
    found: to,
    allowed: 'another file'
  })
}

export function addQuantize(program: Command, session: Session): void {
  program
    .command('quantize')
    .description('write a file with smaller weights: matrices quantised, norms and routers kept')
    .argument('<in>', 'a GGUF file with F32, F16 or BF16 weights', filePath)
    .argument('<out>', 'the file to write; one of that name is replaced when the new one is whole', filePath)
    .option('--type <type>', 'type of the matrices, q8_0 or q4_0 (the output matrix becomes Q8_0)', typeOf, 'Q8_0')
    .option('--json', 'one JSON object')
    .action(async (from: string, to: string, options: QuantizeOptions) => {
      const { path } = locateModel(packageRoot(), from)
      refuseSameFile(path, to)
      const addon = native()
      const cancel = addon.createCancel()
      session.signal.addEventListener('abort', () => cancel.cancel(), { once: true })
      const started = performance.now()
      const { type } = options
      const { bytes } = await addon.quantizeGguf(
        path,
        to,
        { type, onProgress: (progress) => session.progress('quantising', progress) },
        cancel
      )
      const before = statSync(path).size
      const seconds = performance.now() - started
      if (options.json) session.json({ from: path, to, type, bytes, bytesBefore: before, milliseconds: seconds })
      else
        session.write(
          `${to}: ${formatBytes(bytes)} from ${formatBytes(before)}, ${type}, ${formatMilliseconds(seconds)}\n`
        )
    })
}

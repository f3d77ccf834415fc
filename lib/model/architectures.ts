/** The architectures that can be run. A new one is one file and one line here; no backend changes. */
import { createError } from '../errors/index.js'
import { deepseek2 } from './deepseek2.js'
import { gptOss } from './gpt-oss.js'
import { granitemoe } from './granitemoe.js'
import { Metadata, type RawMetadata } from './metadata.js'
import { mixtral } from './mixtral.js'
import { olmoe } from './olmoe.js'
import type { Plan } from './plan.js'
import { qwen2moe } from './qwen2moe.js'
import { qwen3moe } from './qwen3moe.js'
import { readSizes, type SizeRules, type Sizes } from './sizes.js'

export interface Architecture {
  /** What `general.architecture` says. */
  readonly ggufName: string
  /** What people call it, where that differs. */
  readonly title: string
  readonly rules: SizeRules
  /** Whether a file of this name is this architecture, or why not. */
  refuse?(metadata: Metadata): string | undefined
  /** One forward call. `tied`: the file has no output matrix. */
  plan(sizes: Sizes, tied: boolean): Plan
}

const ARCHITECTURES: readonly Architecture[] = [olmoe, qwen2moe, qwen3moe, mixtral, granitemoe, gptOss, deepseek2]

export const SUPPORTED_ARCHITECTURES: readonly string[] = ARCHITECTURES.map(({ ggufName, title }) =>
  ggufName === title ? title : `${ggufName} (${title})`
)

/**
 * The architecture of a file with its sizes. METADATA_INVALID {key, found, allowed};
 * ARCHITECTURE_UNSUPPORTED {architecture, supported}, also for a dense model of a known name.
 */
export function findArchitecture(raw: RawMetadata): { architecture: Architecture; sizes: Sizes; metadata: Metadata } {
  const name = new Metadata(raw).string('general.architecture')
  const metadata = new Metadata(raw, name)
  const architecture = ARCHITECTURES.find((a) => a.ggufName === name)
  const reason = architecture ? architecture.refuse?.(metadata) : 'is not supported'
  if (!architecture || reason !== undefined) {
    const shown = name.length > 60 ? `${name.slice(0, 57)}...` : name
    throw createError(
      'ARCHITECTURE_UNSUPPORTED',
      `architecture ${JSON.stringify(shown)} ${reason}; supported: ${SUPPORTED_ARCHITECTURES.join(', ')}`,
      { architecture: shown, supported: [...SUPPORTED_ARCHITECTURES] }
    )
  }
  return { architecture, sizes: readSizes(metadata, architecture.rules), metadata }
}

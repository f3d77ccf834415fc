/** How much memory a model's prefix cache may take: pages of KV caches that are kept for later requests (docs/prefix-cache.md). */
import { isEngineError } from './errors/index.js'
import type { ExpertMemory } from './expert-budget.js'
import { byteSize, validationError } from './validation.js'

/** What is asked for. */
export interface PrefixRequest {
  bytes: number
  /** By the caller: memory that a model was given is set aside for it. */
  asked: boolean
}

/** Of a model that does not say; and which part it may be of what a model leaves that was given no memory. */
const [defaultBytes, defaultPart] = [256 * 2 ** 20, 1 / 4]

/** Undefined where nothing is to be shared. `kept`: whether the backend has a prefix cache. VALIDATION_ERROR where one is asked for that it has not. */
export function prefixRequest(option: number | string | false | undefined, kept: boolean): PrefixRequest | undefined {
  if (option === false || (option === undefined && !kept)) return undefined
  if (!kept) throw validationError('loadModel', 'prefixCache', option, prefixCacheElsewhere)
  return option === undefined ? { bytes: defaultBytes, asked: false } : { bytes: byteSize(option), asked: true }
}

/** What may be said of the cache with another backend than the one that has it. */
export const prefixCacheElsewhere = 'false: only the backend cpu has a prefix cache'

/** Bytes at most, where `left` bytes are available beside the model and it was given none. */
export function prefixBeside(request: PrefixRequest | undefined, left: number): number {
  if (!request) return 0
  return Math.floor(Math.min(request.bytes, Math.max(0, request.asked ? left : left * defaultPart)))
}

/** Bytes of a budget that are set aside, where `spare` are not needed for anything else. */
export const prefixAside = (request: PrefixRequest | undefined, spare: number): number =>
  request?.asked ? Math.floor(Math.min(request.bytes, spare)) : 0

/** What a model keeps for requests that may come. */
export interface KeptPrefixes {
  readonly idlePrefixBytes: number
  dropPrefixes(): void
}

/** Who gets what of the `available` memory. Where it is short, `loaded` models give up what they keep first. Throws what `plan` does. */
export function planBesidePrefixes(
  plan: (available: number) => ExpertMemory,
  available: () => number,
  loaded: readonly KeptPrefixes[]
): ExpertMemory {
  const keeping = loaded.filter(({ idlePrefixBytes }) => idlePrefixBytes > 0)
  const again = (): ExpertMemory => {
    for (const model of keeping) model.dropPrefixes()
    return plan(available())
  }
  const now = available()
  try {
    const memory = plan(now)
    return keeping.length > 0 && isShort(memory, now) ? again() : memory
  } catch (error) {
    if (keeping.length === 0 || !isEngineError(error) || error.code !== 'RESOURCE_MEMORY_EXHAUSTED') throw error
    return again()
  }
}

/** Whether a model gets less than all that it could use, or that much is not there. */
function isShort(
  { kept, chosenBy, memory, base, keyValues, arena, experts }: ExpertMemory,
  available: number
): boolean {
  const whole = base + keyValues + arena + experts.all
  return Math.min(memory, whole) > available || (kept === 'budget' && chosenBy === 'available memory')
}

/** The embedded model, whole and with its archive tier on a real nginx alone. */
import { chmodSync, cpSync, mkdirSync, readdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { convertModel, createEngine, type Engine, type EngineOptions, type LoadModelRequest } from 'tiered-moe'
import type { Nginx } from '../fixtures/nginx.js'
import { embedded } from '../fixtures/package.js'

export const tiers = [
  { name: 'core', placement: 'hot' as const, experts: Array.from({ length: 8 }, (_, i) => i) },
  { name: 'rare', placement: 'archive' as const, experts: 'rest' as const }
]
export const contextLength = 192
export const request = { model: 'tiny', prompt: 'ROMEO:', maxTokens: 40, seed: 4, ignoreEos: true }
export const quick = {
  retry: { attempts: 2, delaysMs: [1], jitterMs: 0 },
  timeouts: { connectMs: 2000, firstByteMs: 2000, betweenBytesMs: 2000, totalMs: 20_000 },
  breaker: { failureThreshold: 1000 }
}

/** Writes the checkpoint to `whole`, to `part` without the archive's files, and gives the server only those. */
export async function writeArchived(nginx: Nginx, whole: string, part: string): Promise<void> {
  await convertModel({ from: embedded, to: whole, tiers })
  cpSync(whole, part, { recursive: true })
  mkdirSync(join(nginx.files, 'experts'))
  cpSync(join(whole, 'experts/rare'), join(nginx.files, 'experts/rare'), { recursive: true })
  rmSync(join(part, 'experts/rare'), { recursive: true })
  const served = readdirSync(join(nginx.files, 'experts'), { recursive: true, encoding: 'utf8' })
  for (const path of ['', ...served]) {
    const full = join(nginx.files, 'experts', path)
    chmodSync(full, statSync(full).isDirectory() ? 0o755 : 0o644)
  }
}

/** An engine with a model of the id `tiny`. */
export async function openTiny(t: Test, load: LoadModelRequest, options: EngineOptions = {}): Promise<Engine> {
  const engine = await createEngine({ threads: 2, maxBatchTokens: 64, ...options })
  t.teardown(() => engine.dispose())
  await engine.loadModel({ id: 'tiny', contextLength, ...load })
  return engine
}

/** Memory in which so many experts fit of the model that `plain` has whole. */
export function memoryFor(plain: Engine, experts: number): number {
  const { base, arena, experts: all } = plain.listModels()[0]!.memory
  return base + arena + experts * all.slot
}

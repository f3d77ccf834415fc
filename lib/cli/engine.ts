/** The options that every command with a model has, and the engine that they ask for. */
import { type Command, Option } from 'commander'
import { type BackendName, createEngine, type Engine, type KvType, type ModelDescriptor } from '../index.js'
import type { Isa, Prefetch } from '../native.js'
import { filePath, given, integer } from './arguments.js'
import type { Session } from './session.js'

export interface EngineChoices {
  backend?: BackendName
  /** Of webgpu and cuda. */
  gpuMemory?: string
  threads?: number
  isa?: Isa | 'auto'
  kvType?: KvType
  contextLength?: number
  memory?: string
  prefetch?: Prefetch
  tierSet?: string
  /** Milliseconds that a token may take. */
  latencyBudget?: number
  tiers?: string
  archive?: string
  coldFolder?: string
  /** Record what is asked of the expert cache. */
  recordTrace?: boolean
  /** Seconds that an answer may go on for after a signal. */
  drain?: number
  /** File of the audit log. */
  audit?: string
}

export function withEngineOptions(command: Command): Command {
  return command
    .addOption(new Option('--backend <name>', 'what runs the model').choices(['cpu', 'webgpu', 'cuda']).default('cpu'))
    .option(
      '--gpu-memory <bytes>',
      "with webgpu and cuda: all GPU memory that the model may take, as '2GiB' (default: what it needs)"
    )
    .option('--threads <n>', 'worker threads (default: all cores)', integer(1, 1024))
    .addOption(
      new Option('--isa <name>', 'instruction set')
        .choices(['auto', 'scalar', 'avx2', 'avx512', 'neon'])
        .default('auto')
    )
    .addOption(new Option('--kv-type <type>', 'type of the KV cache').choices(['f16', 'f32']).default('f16'))
    .option('--context-length <n>', "positions of one sequence (default: the model's)", integer(1))
    .option('--memory <bytes>', "all memory that the model may take, as '2GiB' (default: what there is)")
    .addOption(
      new Option(
        '--prefetch <mode>',
        'read experts ahead of their use (with --memory; default: where it pays)'
      ).choices(['off', 'on', 'auto'])
    )
    .option('--tiers <file>', 'YAML with the tiers of a plain model (docs/tiers.md)', filePath)
    .option('--archive <url>', "where the files of a checkpoint's archive tiers are (default: what its manifest says)")
    .option('--cold-folder <path>', 'with --archive: the folder for what came from there', filePath)
    .option('--tier-set <name>', 'tiers to use: fast, balanced, deep, max, or names with commas (default: max)')
}

export interface OpenModel {
  engine: Engine
  id: string
  descriptor: ModelDescriptor
  /** Milliseconds from starting the engine to a model that can run. */
  loadMs: number
}

/** A TierSet as the command line has it: names with commas are a list. */
export const tierSetOf = (text: string): string | string[] =>
  text.includes(',') ? text.split(',').filter((name) => name !== '') : text

/** Starts an engine with a loaded model, runs `use`, and releases everything however it ends. */
export async function withModel<Result>(
  model: string | undefined,
  choices: EngineChoices,
  session: Session,
  use: (open: OpenModel) => Promise<Result>
): Promise<Result> {
  const started = performance.now()
  const { backend, threads, isa, audit, drain } = choices
  const draining = drain !== undefined && { drainMs: drain * 1000, signals: true }
  const engine = await createEngine({ ...given({ backend, threads, isa, audit }), ...draining })
  if (draining) session.releaseSignals()
  try {
    const { id, descriptor } = await engine.loadModel(
      given({
        model,
        kvType: choices.kvType,
        contextLength: choices.contextLength,
        memory: choices.memory,
        gpuMemory: choices.gpuMemory,
        prefetch: choices.prefetch,
        tierSet: choices.tierSet === undefined ? undefined : tierSetOf(choices.tierSet),
        latencyBudgetMs: choices.latencyBudget,
        tiers: choices.tiers,
        recordTrace: choices.recordTrace,
        archive:
          choices.archive === undefined
            ? undefined
            : { url: choices.archive, ...given({ coldFolder: choices.coldFolder }) }
      }),
      { signal: session.signal, onProgress: (progress) => session.progress('loading', progress) }
    )
    session.clearProgress()
    return await use({ engine, id, descriptor, loadMs: performance.now() - started })
  } finally {
    await engine.dispose()
  }
}

/** The most memory that this process has held, in bytes. */
export function peakMemory(): number {
  return process.resourceUsage().maxRSS * 1024
}

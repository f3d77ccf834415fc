/** The options that every command with a model has, over the configuration. with-model.ts opens the engine that they ask for. */
import { type Command, Option } from 'commander'
import type { BackendName, Engine, KvType, ModelDescriptor } from '../index.js'
import type { Isa, Prefetch } from '../native.js'
import { filePath, integer, quantizedType } from './arguments.js'

export interface EngineChoices {
  /** A configuration file; false: none, nor variables. */
  config?: string | false
  backend?: BackendName
  /** Of webgpu and cuda. */
  gpuMemory?: string
  threads?: number
  isa?: Isa | 'auto'
  kvType?: KvType
  /** Of safetensors files. */
  quantize?: 'Q8_0' | 'Q4_0'
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
    .option(
      '--config <file>',
      'settings of engine and models; options go over them (default: tiered-moe.yaml in this folder, if there)',
      filePath
    )
    .addOption(new Option('--backend <name>', 'what runs the model (default: cpu)').choices(['cpu', 'webgpu', 'cuda']))
    .option(
      '--gpu-memory <bytes>',
      "with webgpu and cuda: all GPU memory that the model may take, as '2GiB' (default: what it needs)"
    )
    .option('--threads <n>', 'worker threads (default: all cores)', integer(1, 1024))
    .addOption(
      new Option('--isa <name>', 'instruction set (default: auto)').choices([
        'auto',
        'scalar',
        'avx2',
        'avx512',
        'neon'
      ])
    )
    .addOption(new Option('--kv-type <type>', 'type of the KV cache (default: f16)').choices(['f16', 'f32']))
    .option(
      '--quantize <type>',
      'of safetensors files: q8_0 or q4_0 matrices, made as they are read (default: as they are)',
      quantizedType
    )
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

/** The most memory that this process has held, in bytes. */
export function peakMemory(): number {
  return process.resourceUsage().maxRSS * 1024
}

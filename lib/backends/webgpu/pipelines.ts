/** Compiled shaders of a device, each compiled once. */
import { createError } from '../../errors/index.js'
import { validationFailed } from './failures.js'
import { computeStage } from './flags.js'
import type { Launch } from './launches/launch.js'
import type { ShaderTexts } from './specialise.js'
import { specialise } from './specialise.js'

export interface Pipeline {
  readonly key: string
  readonly pipeline: GPUComputePipeline
  readonly layout: GPUBindGroupLayout
}

type Variant = Pick<Launch, 'shader' | 'defines'>

/** Who is told of compiling, and of how many. */
interface Watcher {
  readonly tell: (done: number, count: number) => void
  done: number
  count: number
}

/** Names a shader and all that specialises it; what is compiled is made from this text alone (`variantOf`). */
export function keyOf({ shader, defines }: Variant): string {
  const given = Object.entries(defines).sort(([a], [b]) => (a < b ? -1 : 1))
  return [shader, ...given.map(([name, value]) => `${name}=${value}`)].join(' ')
}

export function variantOf(key: string): { shader: string; defines: Record<string, string> } {
  const [shader = '', ...given] = key.split(' ')
  const pairs = given.map((text): [string, string] => {
    const at = text.indexOf('=')
    return [text.slice(0, at), text.slice(at + 1)]
  })
  return { shader, defines: Object.fromEntries(pairs) }
}

const binding = /@group\(0\)\s*@binding\((\d+)\)\s*var<\s*(uniform|storage)\s*(?:,\s*(read_write|read)\s*)?>/g

/** The bindings that a shader declares, used or not: so that a launch binds the same buffers whatever its defines leave out. */
export function bindingsOf(code: string): { binding: number; type: GPUBufferBindingType }[] {
  return [...code.matchAll(binding)].map(([, index, space, access]) => ({
    binding: Number(index),
    type: space === 'uniform' ? 'uniform' : access === 'read_write' ? 'storage' : 'read-only-storage'
  }))
}

export class Pipelines {
  readonly #device: GPUDevice
  readonly #name: string
  readonly #shaders: ShaderTexts
  readonly #compiled = new Map<string, Promise<Pipeline>>()
  readonly #watchers = new Set<Watcher>()
  readonly #layouts = new Map<string, GPUBindGroupLayout>()

  constructor(device: GPUDevice, name: string, shaders: ShaderTexts) {
    this.#device = device
    this.#name = name
    this.#shaders = shaders
  }

  get size(): number {
    return this.#compiled.size
  }

  /** Tells how many are compiled of those that were first asked for since it began, while `work` goes on; any number watch at a time. */
  async watched<Result>(tell: (done: number, count: number) => void, work: () => Promise<Result>): Promise<Result> {
    const watcher = { tell, done: 0, count: 0 }
    this.#watchers.add(watcher)
    try {
      return await work()
    } finally {
      this.#watchers.delete(watcher)
    }
  }

  /** Throws GPU_SHADER_INVALID {shader, defines, compiler}; VALIDATION_ERROR for an unknown shader or a define that is missing. */
  get(variant: Variant): Promise<Pipeline> {
    const key = keyOf(variant)
    const known = this.#compiled.get(key)
    if (known) return known
    const compiling = this.#compile(key)
    this.#compiled.set(key, compiling)
    const watchers = [...this.#watchers]
    for (const watcher of watchers) watcher.count++
    compiling.then(
      () => {
        for (const watcher of watchers) {
          watcher.done++
          if (this.#watchers.has(watcher)) watcher.tell(watcher.done, watcher.count)
        }
      },
      () => {
        this.#compiled.delete(key)
        for (const watcher of watchers) watcher.count--
      }
    )
    return compiling
  }

  async #compile(key: string): Promise<Pipeline> {
    const { shader, defines } = variantOf(key)
    const code = specialise(this.#shaders, shader, defines)
    const { module, invalid } = this.#scoped(() => ({ module: this.#device.createShaderModule({ code, label: key }) }))
    const [{ messages }, wrong] = await Promise.all([module.getCompilationInfo(), invalid])
    const errors = messages.filter(({ type }) => type === 'error')
    if (errors.length > 0 || wrong) {
      const lines = code.split('\n')
      const compiler = errors.map(({ message, lineNum }) => `${message}: ${lines[lineNum - 1]?.trim() ?? ''}`)
      throw this.#refused(key, compiler.length > 0 ? compiler : [wrong?.message ?? 'no reason was given'], wrong)
    }
    const { layout, invalid: badLayout } = this.#scoped(() => ({ layout: this.#layoutOf(code) }))
    const pipelineLayout = this.#device.createPipelineLayout({ bindGroupLayouts: [layout] })
    const bad = await badLayout
    if (bad) throw validationFailed(this.#name, `the layout of ${key}`, bad)
    try {
      const pipeline = await this.#device.createComputePipelineAsync({
        label: key,
        layout: pipelineLayout,
        compute: { module, entryPoint: 'main' }
      })
      return { key, pipeline, layout }
    } catch (cause) {
      throw this.#refused(key, [cause instanceof Error ? cause.message : String(cause)], cause)
    }
  }

  /** Runs something that WebGPU may find invalid; `invalid` tells what it said. */
  #scoped<Made extends object>(make: () => Made): Made & { invalid: Promise<GPUError | null> } {
    this.#device.pushErrorScope('validation')
    const made = make()
    return { ...made, invalid: this.#device.popErrorScope() }
  }

  #layoutOf(code: string): GPUBindGroupLayout {
    const bindings = bindingsOf(code)
    const signature = bindings.map(({ binding, type }) => `${binding}:${type}`).join()
    const known = this.#layouts.get(signature)
    if (known) return known
    const layout = this.#device.createBindGroupLayout({
      label: signature,
      entries: bindings.map(({ binding, type }) => ({ binding, visibility: computeStage, buffer: { type } }))
    })
    this.#layouts.set(signature, layout)
    return layout
  }

  #refused(key: string, compiler: string[], cause: unknown) {
    const { shader, defines } = variantOf(key)
    return createError(
      'GPU_SHADER_INVALID',
      `${this.#name} does not compile the shader ${key}: ${compiler[0]}`,
      { device: this.#name, shader, defines, compiler },
      { cause }
    )
  }
}

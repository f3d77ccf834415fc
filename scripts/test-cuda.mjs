// The self-test of csrc/cuda, then the addon: the CPU's cases of every kernel through `openBackend('cuda')`, and models on `backend: 'cuda'`.
//   npm run test:cuda                   compiled by nvcc for every architecture, run on this machine's GPU
//   npm run test:cuda -- --emulated     compiled for the host under the emulation and the sanitizers, run here
// Without nvcc the first says that it is skipped; without a GPU it compiles only. Builds stay in build-cuda-test, build-cuda-emulated, build-cmake.
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { nvcc } from './nvcc.mjs'
import { runSanitized } from './sanitized.mjs'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const emulated = process.argv.includes('--emulated')
const build = join(root, emulated ? 'build-cuda-emulated' : 'build-cuda-test')
const cases = join(build, 'cases.bin')
// Tests of kernels that compare forms: with this variable the one form is CUDA's.
process.env.TIERED_MOE_TEST_BACKEND = 'cuda'
const kernelTests = ['kernels', 'golden']
  .flatMap((folder) => readdirSync(join(root, 'test', folder)).map((name) => `test/${folder}/${name}`))
  .filter((path) => path.endsWith('.test.ts') && readFileSync(join(root, path), 'utf8').includes('new Forms('))
const cudaTests = [
  'tiers-sequences',
  'tiers',
  'tiers-files',
  'engine',
  'gpt-oss',
  'route-forms',
  'ranks',
  'kernels',
  'refusals'
].map((name) => `test/cuda/${name}.test.ts`)

function run(command, ...args) {
  const { status, signal } = spawnSync(command, args, { cwd: root, stdio: 'inherit' })
  if (status !== 0) {
    console.error(`${command} ${args.join(' ')}: ${signal ?? `exit code ${status}`}`)
    process.exit(1)
  }
}

/** Runs the self-test; false where it finds neither driver nor GPU, of which it is to say what to install. */
function selfTest() {
  const { status, signal, stderr } = spawnSync(join(build, 'cuda_self_test'), [cases], {
    encoding: 'utf8',
    stdio: ['ignore', 'inherit', 'pipe']
  })
  if (status === 2 && stderr.startsWith('CUDA_DEVICE_FAILED') && stderr.includes('install the NVIDIA driver'))
    return false
  process.stderr.write(stderr)
  if (status === 0) return true
  console.error(`the self-test: ${signal ?? `exit code ${status}`}`)
  return process.exit(1)
}

if (!emulated && !nvcc) {
  console.log('skipped: nvcc was not found, so the CUDA kernels were neither compiled nor run')
  process.exit(0)
}
// The compiler may be a wrapper too: `ccache g++`.
const [compiler, ...before] = (process.env.CXX ?? 'g++').split(' ').reverse()
const launcher = before.reverse().join(';')
const launchers = launcher ? ['CXX', 'CUDA'].map((language) => `-DCMAKE_${language}_COMPILER_LAUNCHER=${launcher}`) : []
const options = emulated
  ? ['-DTMOE_CUDA_EMULATED=ON', '-DTMOE_SANITIZE=address,undefined']
  : [`-DCMAKE_CUDA_COMPILER=${nvcc}`]
run('cmake', '-S', 'csrc/cuda', '-B', build, `-DCMAKE_CXX_COMPILER=${compiler}`, ...launchers, ...options)
run('cmake', '--build', build, '--parallel', String(availableParallelism()))
if (!existsSync(join(root, 'dist'))) run('npm', 'run', 'build:lib')
run(process.execPath, 'scripts/cuda-cases.mjs', cases)
if (emulated) {
  process.env.ASAN_OPTIONS = 'detect_stack_use_after_return=0:detect_leaks=1'
  // One thread, while the addon is compiled.
  const ended = once(spawn(join(build, 'cuda_self_test'), [cases], { cwd: root, stdio: 'inherit' }), 'exit')
  run(process.execPath, 'scripts/build-cuda.mjs', '--sanitized')
  const [status, signal] = await ended
  if (status !== 0) {
    console.error(`the self-test: ${signal ?? `exit code ${status}`}`)
    process.exit(1)
  }
  console.log('the kernels, compiled for the host, agree with the naive references under AddressSanitizer and UBSan')
  const addon = { TIERED_MOE_CUDA_ADDON: join(root, 'build-cmake/Release/tiered_moe_cuda.node') }
  // Threads, blocks and streams in a shuffled order.
  const shuffled = { ...addon, TIERED_MOE_EMULATED_SEED: '7' }
  const failed = await runSanitized([
    ...['test/cuda/model.mjs --tokens 4', ...cudaTests].map((file) => ({ file, variables: shuffled })),
    ...kernelTests.map((file) => ({ file, variables: addon }))
  ])
  if (failed.length > 0) process.exit(1)
  console.log('the addon, compiled for the host, gives the bits of the CPU under AddressSanitizer and UBSan')
} else if (selfTest()) {
  run(process.execPath, 'scripts/build-cuda.mjs')
  run('npx', 'tap', ...kernelTests, ...cudaTests)
  run(process.execPath, 'test/cuda/model.mjs')
} else {
  run(process.execPath, 'scripts/build-cuda.mjs')
  // The addon links and loads, and says the same.
  const { openBackend } = await import('../dist/esm/kernels.js')
  const refused = await openBackend('cuda').then(
    () => undefined,
    (error) => error
  )
  if (refused?.code !== 'CUDA_DEVICE_FAILED' || !refused.details.detail?.startsWith('cudaError')) {
    console.error(`without a device the addon gave ${refused?.stack ?? 'a backend'}`)
    process.exit(1)
  }
  console.log(`compiled by nvcc without a warning; not run: no GPU is here (${refused.message})`)
}

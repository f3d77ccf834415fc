// Builds tiered_moe_cuda.node with cmake-js, and tiered_moe.node of the same objects beside it.
//   npm run build:cuda                        with nvcc, into build-cuda (where `backend: 'cuda'` looks)
//   node scripts/build-cuda.mjs --emulated    for the host, into build-cuda-host: for tests, through TIERED_MOE_CUDA_ADDON
//   node scripts/build-cuda.mjs --sanitized   the same with csrc/cuda under AddressSanitizer and UBSan, into build-cmake
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { nvcc } from './nvcc.mjs'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const sanitized = process.argv.includes('--sanitized')
const emulated = sanitized || process.argv.includes('--emulated')
if (!emulated && !nvcc) {
  console.error('nvcc was not found, neither in PATH nor in /usr/local/cuda/bin: install CUDA 12.8 or newer')
  process.exit(1)
}
const require = createRequire(import.meta.url)
const cmake = join(dirname(require.resolve('cmake-js/package.json')), 'bin', 'cmake-js')
const args = [
  'build',
  '--out',
  sanitized ? 'build-cmake' : emulated ? 'build-cuda-host' : 'build-cuda',
  '--CDTMOE_CUDA=ON'
]
args.push(emulated ? '--CDTMOE_CUDA_EMULATED=ON' : `--CDCMAKE_CUDA_COMPILER=${nvcc}`)
if (sanitized) args.push('--CDTMOE_SANITIZE=address,undefined')
// The compiler may be a wrapper too: `ccache g++`.
const [compiler, ...before] = (process.env.CXX ?? 'g++').split(' ').reverse()
const env = { ...process.env, CXX: compiler }
if (before.length > 0) args.push(`--CDCMAKE_CXX_COMPILER_LAUNCHER=${before.reverse().join(';')}`)
const { status } = spawnSync(process.execPath, [cmake, ...args], { cwd: root, stdio: 'inherit', env })
process.exit(status ?? 1)

// Builds tiered_moe_cuda.node with cmake-js, and tiered_moe.node of the same objects beside it.
//   npm run build:cuda                        with nvcc, into build-cuda (where `backend: 'cuda'` looks)
//   node scripts/build-cuda.mjs --emulated    for the host, into build-cuda-host: for tests, through TIERED_MOE_CUDA_ADDON
//   node scripts/build-cuda.mjs --sanitized   the same with csrc/cuda under AddressSanitizer and UBSan, into build-cmake
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { headersPrefix } from './node-headers.mjs'
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
// The headers that node-gyp takes, so that both compile the same.
if (headersPrefix) args.push(`--CDCMAKE_JS_INC=${join(headersPrefix, 'include', 'node')}`)
if (sanitized) args.push('--CDTMOE_SANITIZE=address,undefined')
// The compiler may be a wrapper too: `ccache g++`.
const [compiler, ...before] = (process.env.CXX ?? 'g++').split(' ').reverse()
// Unless told, make compiles one file at a time.
const env = { ...process.env, CXX: compiler, CMAKE_BUILD_PARALLEL_LEVEL: String(availableParallelism()) }
const launcher = before.reverse().join(';')
if (launcher) for (const language of ['CXX', 'CUDA']) args.push(`--CDCMAKE_${language}_COMPILER_LAUNCHER=${launcher}`)
const { status } = spawnSync(process.execPath, [cmake, ...args], { cwd: root, stdio: 'inherit', env })
process.exit(status ?? 1)

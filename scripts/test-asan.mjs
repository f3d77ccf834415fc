// Builds the addon with AddressSanitizer and UndefinedBehaviorSanitizer into build-asan and runs the native tests on it.
// Its checks of memory are calls in large functions (binding.gyp): inline, those of the unrolled kernels took a minute and a half to compile.
//   npm run test:asan [-- --full] [-- test/native/bad-files.test.ts ...]
import { spawnSync } from 'node:child_process'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { runSanitized } from './sanitized.mjs'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const args = process.argv.slice(2)
const named = args.filter((arg) => !arg.startsWith('--'))
const tests =
  named.length > 0
    ? named
    : [
        // As many at a time as there are cores: the longest first.
        'test/experts/swap.test.ts',
        'test/experts/merge.test.ts',
        ...['bad-files', 'arguments', 'kernel-arguments', 'prefix-cache', 'teardown', 'store'].map(
          (name) => `test/native/${name}.test.ts`
        ),
        'test/store/expert-cache.test.ts',
        'test/checkpoint/damage.test.ts',
        'test/kernels/route-hser.test.ts',
        'test/engine/routing.test.ts',
        'test/tiers/steering.test.ts',
        'test/tiers/starvation.test.ts'
      ]
const out = join(root, 'build-asan')

const build = spawnSync(
  process.execPath,
  ['scripts/build-addon.mjs', '--out', out, '--', '--sanitize=address,undefined'],
  {
    cwd: root,
    stdio: 'inherit'
  }
)
if (build.status !== 0) process.exit(build.status ?? 1)
const addon = join(out, 'tiered_moe.node')
const failed = await runSanitized(
  tests.map((file) => ({ file, variables: { TIERED_MOE_ADDON: addon } })),
  args.filter((arg) => arg === '--full')
)
if (failed.length === 0) console.log(`${tests.length} test files passed under AddressSanitizer and UBSan`)
process.exit(failed.length === 0 ? 0 : 1)

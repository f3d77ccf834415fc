// Loads the tests' TypeScript without a compiler in every process: `npm run typecheck` leaves what it makes of each file in the cache, and what is
// not there, or older than its source, is compiled once. tap starts each test file with `--import` of this.
import { register } from 'node:module'
import './raised.mjs'

register('./test-hooks.mjs', import.meta.url)
// Set by package.json: it keeps tap from loading a compiler of its own, twice in every process of a test. Later it would mean another thing.
delete process.env.TAP_TYPE_STRIP_ONLY
// For coverage, which is off, tap has every process that a test starts write down the files that it loads, which doubles what a start takes.
const writesFilesDown = /"?--import=\S*@tapjs\/processinfo\/\S*/
if (writesFilesDown.test(process.env.NODE_OPTIONS)) {
  const { default: onSpawn } = await import('process-on-spawn')
  onSpawn.removeAllListeners()
  process.env.NODE_OPTIONS = process.env.NODE_OPTIONS.replace(writesFilesDown, '').trim()
}
// The processes that a test starts note what they raise too.
const recorder = `--import=${new URL('./raised.mjs', import.meta.url)}`
if (!process.env.NODE_OPTIONS?.includes(recorder)) {
  process.env.NODE_OPTIONS = [process.env.NODE_OPTIONS, recorder].filter(Boolean).join(' ')
}

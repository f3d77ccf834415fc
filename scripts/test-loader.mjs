// Loads the tests' TypeScript without a compiler in every process: `npm run typecheck` leaves what it makes of each file in the cache, and what is
// not there, or older than its source, is compiled once. tap starts each test file with `--import` of this.
import { register } from 'node:module'
import './raised.mjs'

register('./test-hooks.mjs', import.meta.url)
// The processes that a test starts note what they raise too.
const recorder = `--import=${new URL('./raised.mjs', import.meta.url)}`
if (!process.env.NODE_OPTIONS?.includes(recorder)) {
  process.env.NODE_OPTIONS = [process.env.NODE_OPTIONS, recorder].filter(Boolean).join(' ')
}

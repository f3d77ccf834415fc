// Loads the tests' TypeScript without a compiler in every process: `npm run typecheck` leaves what it makes of each file in the cache, and what is
// not there, or older than its source, is compiled once. tap starts each test file with `--import` of this.
import { register } from 'node:module'

register('./test-hooks.mjs', import.meta.url)

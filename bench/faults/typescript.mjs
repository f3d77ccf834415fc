// Loads the TypeScript of the tests' fixtures: `node --import ./bench/faults/typescript.mjs`.
import { register } from 'node:module'

register('../../scripts/test-hooks.mjs', import.meta.url)

/** Launch of sample (shaders/sample): the next token of each row of logits. */
import type { Launch } from './launch.js'
import { words } from './launch.js'

/** Most candidates that the shader draws from. */
export const mostCandidates = 256
/** Words of one row's request and of its result. */
export const requestWords = 10
export const resultWords = 64

export function sampleLaunch({ rows, vocab }: { rows: number; vocab: number }): Launch {
  return { shader: 'sample', defines: {}, workgroups: [rows, 1, 1], params: words(rows, vocab) }
}

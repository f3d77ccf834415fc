// Plants the fault of TIERED_MOE_MUTANT, {file, from, to}, into a file of the built library while it is loaded.
import { register } from 'node:module'

const { file, from, to } = JSON.parse(process.env.TIERED_MOE_MUTANT)
const hooks = `
  export async function load(url, context, next) {
    const loaded = await next(url, context)
    if (!url.endsWith(${JSON.stringify(file)})) return loaded
    const text = String(loaded.source)
    if (!text.includes(${JSON.stringify(from)})) throw new Error('the planted fault has no place')
    return { ...loaded, source: text.replace(${JSON.stringify(from)}, () => ${JSON.stringify(to)}) }
  }`
register(`data:text/javascript,${encodeURIComponent(hooks)}`)

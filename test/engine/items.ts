import type { GenerationItem, Generator } from 'tiered-moe'

/** Items until the end, or `count` of them. */
export async function items(generator: Generator, count = Number.POSITIVE_INFINITY): Promise<GenerationItem[]> {
  const found: GenerationItem[] = []
  while (found.length < count) {
    const { done, value } = await generator.next()
    if (done) break
    found.push(value)
  }
  return found
}

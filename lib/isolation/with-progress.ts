/** Loads in workers: their progress is told to the caller's function, and what that throws ends them. */
import type { LoadModelOptions } from '../engine/options.js'
import { loadCallSchema } from '../engine/options.js'
import { validated } from '../schemas.js'
import type { RemoteCall } from './remote-calls.js'

/** Runs `work` with what it hands to the workers: the call, and the time that each of them has. */
export async function withProgress<Result>(
  method: string,
  options: LoadModelOptions,
  work: (call: RemoteCall, within: { timeoutMs?: number }) => Promise<Result>,
  undo: (result: Result) => Promise<unknown>
): Promise<Result> {
  const { signal, timeoutMs, onProgress } = validated(loadCallSchema, options, method) as LoadModelOptions
  const own = new AbortController()
  let thrown: { error: unknown } | undefined
  const call: RemoteCall = {
    signal: signal ? AbortSignal.any([signal, own.signal]) : own.signal,
    onProgress:
      onProgress &&
      ((progress) => {
        try {
          if (!thrown) onProgress(progress)
        } catch (error) {
          thrown = { error }
          own.abort(error)
        }
      })
  }
  let result: Result
  try {
    result = await work(call, timeoutMs === undefined ? {} : { timeoutMs })
  } catch (error) {
    throw thrown ? thrown.error : error
  }
  if (!thrown) return result
  // The workers were done before they heard of it.
  await undo(result)
  throw (thrown as { error: unknown }).error
}

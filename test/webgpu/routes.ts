/** Routes of the GPU beside the CPU's: ids and exact scores equal, weights near. */
import type { Test } from 'tap'
import type { KernelBackend, RouteRequest, WebgpuBackend } from 'tiered-moe/kernels'
import { bound, tolerances } from '../kernels/tolerance.js'

/** Rows of all routers of a request. */
export const rowsOf = ({ experts, hser }: RouteRequest) =>
  experts + (hser ? hser.groupExperts.length + hser.tierGroups.length - 2 : 0)

export const sameRoutes =
  (cpu: KernelBackend, gpu: WebgpuBackend) => async (test: Test, label: string, request: RouteRequest) => {
    const scores = () => new BigInt64Array(request.positions.length * rowsOf(request))
    const expected = cpu.sync.route({ ...request, scores: scores() })
    const got = await gpu.route({ ...request, scores: scores() })
    test.same(got.ids, expected.ids, `${label}: ids`)
    test.same(got.scores, expected.scores, `${label}: scores`)
    const allowed = bound(tolerances.routeWeights, request.scale ?? 1, request.experts)
    const far = got.weights.findIndex((weight, i) => !(Math.abs(weight - expected.weights[i]!) <= allowed))
    test.equal(far, -1, `${label}: weights`)
    return got
  }

/** What a route's request has beside its router, checked as on the CPU (csrc/cpu/route.h, route_groups.h). */
import type { OnDevice } from '../../../kernels/device-arrays.js'
import type { RouteRequest } from '../../../kernels/requests.js'
import type { RouteShape } from '../launches/route.js'
import { choiceArgument, integerArgument, mostExperts, numberArgument, refused } from './arguments.js'

const mostGroups = 256
const groupScores = ['max', 'top2'] as const

function readGroups(
  groups: NonNullable<RouteRequest['groups']>,
  form: RouteShape['form'],
  experts: number,
  k: number
): NonNullable<RouteShape['groups']> {
  const count = integerArgument('groups.count', groups.count, 1, mostExperts)
  const used = integerArgument('groups.used', groups.used, 1, mostExperts)
  const score = choiceArgument('groups.score', groups.score ?? 'max', groupScores)
  if (count > mostGroups || experts % count !== 0 || used > count)
    throw refused('groups', `1 to ${mostGroups} equal groups of ${experts} experts`, `${used} of ${count}`)
  if (score === 'top2' && form !== 'sigmoid') throw refused('groups.score', 'max, or the form sigmoid', score)
  if (k > used * (experts / count)) throw refused('k', `at most the experts of ${used} groups`, String(k))
  return { count, used, score }
}

/** VALIDATION_ERROR for what a form does not have, and for groups that do not fit. */
export function readExtras(
  { bias, biasExponent, selectionBias, groups, scale }: OnDevice<RouteRequest>,
  form: RouteShape['form'],
  experts: number,
  k: number
): Pick<RouteShape, 'scale' | 'biasExponent' | 'selectionBias' | 'groups'> {
  if (form === 'hser' && (bias || selectionBias || groups))
    throw refused('form', 'a flat form, with biases or groups', form)
  if (selectionBias && form !== 'sigmoid') throw refused('form', 'sigmoid, with a selection bias', form)
  const exponent = numberArgument('biasExponent', biasExponent ?? 0, -200, 200)
  return {
    scale: numberArgument('scale', scale ?? 1, -3e38, 3e38),
    biasExponent: bias ? exponent : undefined,
    selectionBias: selectionBias !== undefined,
    groups: groups && readGroups(groups, form, experts, k)
  }
}

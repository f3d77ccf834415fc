/** Requests of route with biases, sigmoids, groups and scales, that every backend is tried on. */
import type { KernelBackend, RouteGroups, RouteRequest } from 'tiered-moe/kernels'
import { type Flavour, floats, stream, whole } from './values.js'

type Packer = Pick<KernelBackend, 'packRouter' | 'packBias' | 'packSelectionBias'>
type Form = NonNullable<RouteRequest['form']>

interface FormShape {
  experts: number
  k: number
  width: number
  /** Equal groups, and how many stay. */
  groups: [count: number, used: number]
}
const shapes: FormShape[] = [
  { experts: 4, k: 1, width: 3, groups: [4, 2] },
  { experts: 12, k: 4, width: 16, groups: [3, 2] },
  { experts: 64, k: 6, width: 31, groups: [8, 3] },
  { experts: 130, k: 8, width: 20, groups: [13, 4] }
]

interface Extras {
  form: Form
  bias: boolean
  selectionBias: boolean
  groups: RouteGroups['score'] | undefined
}
/** Everything that goes together. */
export const extras: Extras[] = (['softmax_topk', 'topk_softmax', 'sigmoid'] as const).flatMap((form) =>
  [false, true].flatMap((bias) =>
    (form === 'sigmoid' ? [false, true] : [false]).flatMap((selectionBias) =>
      ([undefined, 'max', ...(form === 'sigmoid' ? (['top2'] as const) : [])] as const)
        .map((groups) => ({ form, bias, selectionBias, groups }))
        .filter((own) => own.form === 'sigmoid' || own.bias || own.groups)
    )
  )
)

const nameOf = ({ form, bias, selectionBias, groups }: Extras): string =>
  [form, bias && 'bias', selectionBias && 'selection bias', groups && `groups by ${groups}`].filter(Boolean).join(', ')

/** Four tokens through a random router of a form. `deviation`: of the biases. */
export function formRequest(
  packer: Packer,
  { experts, k, width, groups }: FormShape,
  own: Extras,
  label: string,
  flavour: Flavour = 'normal',
  deviation = 1
): RouteRequest {
  const next = stream(label)
  const tokens = 4
  return {
    states: floats(tokens * width, next, flavour),
    ...packer.packRouter(floats(experts * width, next, 'normal', 0.3)),
    experts,
    k,
    positions: Uint32Array.from({ length: tokens }, () => whole(next, 0, 2 ** 32 - 1)),
    form: own.form,
    ...(own.bias && packer.packBias(floats(experts, next, 'normal', deviation))),
    ...(own.selectionBias && { selectionBias: packer.packSelectionBias(floats(experts, next, 'normal', 0.2)) }),
    ...(own.groups && { groups: { count: groups[0], used: groups[1], score: own.groups } }),
    normalise: next() < 0.5,
    ...(next() < 0.5 && { scale: whole(next, 1, 40) / 8 }),
    layer: whole(next, 0, 60),
    seed: Uint32Array.from({ length: 4 }, () => whole(next, 0, 2 ** 32 - 1))
  }
}

/** Each combination in each shape; states of every flavour in turn, biases far finer and far coarser than the scores now and then. */
export function* formCases(packer: Packer, of = extras): Generator<{ label: string; request: RouteRequest }> {
  const flavours: Flavour[] = ['normal', 'heavy', 'tiny', 'zero']
  const deviations = [1, 2 ** -40, 1, 2 ** 60]
  let turn = 0
  for (const shape of shapes) {
    for (const own of of) {
      for (let i = 0; i < 2; i++, turn++) {
        const flavour = flavours[turn % flavours.length]!
        const deviation = own.form === 'softmax_topk' ? 1 : deviations[Math.floor(turn / 3) % deviations.length]!
        const label = `${nameOf(own)}, ${shape.experts} experts, ${flavour}, biases of ${deviation}`
        yield { label, request: formRequest(packer, shape, own, `${label} ${i}`, flavour, deviation) }
      }
    }
  }
}

/** A sound request with every part, and what makes it unsound. */
export function formMisfits(packer: Packer): { good: RouteRequest; bad: Record<string, Partial<RouteRequest>> } {
  const own: Extras = { form: 'sigmoid', bias: true, selectionBias: true, groups: 'top2' }
  const good = formRequest(packer, { experts: 12, k: 4, width: 16, groups: [3, 2] }, own, 'misfits')
  const groups = good.groups!
  const [bias, selectionBias] = [good.bias!, good.selectionBias!]
  const over = bias.slice()
  over[3] = 2 ** 23 + 1
  const wide = selectionBias.slice()
  wide[5] = -(2n ** 61n) - 1n
  return {
    good,
    bad: {
      'a selection bias of a softmax': { form: 'topk_softmax', groups: { ...groups, score: 'max' } },
      'two best of a softmax': { form: 'softmax_topk', selectionBias: undefined as never },
      'groups that do not divide': { groups: { ...groups, count: 5 } },
      'more groups than there are': { groups: { ...groups, used: 4 } },
      'no groups': { groups: { ...groups, count: 0 } },
      'none used': { groups: { ...groups, used: 0 } },
      'more than the groups hold': { k: 9 },
      'a group score that is none': { groups: { ...groups, score: 'sum' as never } },
      'groups without a number': { groups: { used: 2 } as never },
      'a short bias': { bias: bias.subarray(1) },
      'a bias of more than 24 bits': { bias: over },
      'an exponent that is none': { biasExponent: 300 },
      'a short selection bias': { selectionBias: selectionBias.subarray(1) },
      'a selection bias beyond 2^61': { selectionBias: wide },
      'a scale that is no number': { scale: Number.NaN }
    }
  }
}

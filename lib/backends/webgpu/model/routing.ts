/** The launches of one route with what they are bound to. */
import type { OpOf } from '../../../model/plan.js'
import type { Launch } from '../launches/launch.js'
import { maskWords, routeLaunches } from '../launches/route.js'
import type { Router, ShapeParts } from './step-shape.js'

/** Of a step's data: what decides a route beside its state. */
export interface StepSections {
  positions: GPUBufferBinding
  masks: GPUBufferBinding
  maskOf: GPUBufferBinding
}

export function routing(
  { device, plan, arena, routers }: ShapeParts,
  op: OpOf<'route'>,
  layer: number,
  rows: number,
  state: GPUBufferBinding,
  status: GPUBufferBinding,
  out: { ids: GPUBufferBinding; weights: GPUBufferBinding },
  { positions, masks, maskOf }: StepSections
): { launch: Launch; bindings: GPUBufferBinding[] }[] {
  const { routing } = arena.sizes
  const router = routers[layer] as Router
  const words = maskWords(routing.experts)
  const { scores: first, choose } = routeLaunches(
    {
      tokens: rows,
      width: plan.buffers[op.in] as number,
      experts: routing.experts,
      k: op.k,
      form: op.form,
      normalise: op.normalise,
      scale: op.scale ?? 1,
      biasExponent: router.bias?.exponent,
      selectionBias: router.selectionBias !== undefined,
      groups: op.groups,
      layer: op.layer,
      seed: plan.routingSeed,
      exponent: router.exponent,
      ...(router.hser && { hser: router.hser }),
      mask: { stride: routing.layers * words, offset: layer * words }
    },
    device.facts
  )
  const [scores, exponents] = [arena.get('scores'), arena.get('exponents')]
  return [
    { launch: first, bindings: [state, router.binding, scores, exponents, status] },
    {
      launch: choose,
      bindings: [
        scores,
        exponents,
        positions,
        masks,
        maskOf,
        out.ids,
        out.weights,
        status,
        ...(router.topology ? [router.topology] : []),
        ...(router.bias ? [router.bias.binding] : []),
        ...(router.selectionBias ? [router.selectionBias] : [])
      ]
    }
  ]
}

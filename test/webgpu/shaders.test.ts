// The preprocessor of shaders, and the rules that every file of shaders/ keeps. No device is needed.
import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import type { Defines } from '../../lib/backends/webgpu/launches/launch.js'
import { bindingsOf, keyOf, variantOf } from '../../lib/backends/webgpu/pipelines.js'
import { specialise as specialiseOf } from '../../lib/backends/webgpu/specialise.js'
import { native } from '../../lib/native.js'
import { built } from '../fixtures/package.js'

const { shaderTexts } = (await built('backends/webgpu/shader-texts.js')) as { shaderTexts: Record<string, string> }

const specialise = (text: string, defines: Defines = {}, more = {}) => {
  const texts: Record<string, string> = { main: text, ...more }
  return specialiseOf((name) => texts[name], 'main', defines)
}

t.test('what a define does', async (t) => {
  t.equal(specialise('a $N b$N_2;\n', { N: 16, N_2: 'x' }), 'a 16 bx;\n')
  t.equal(specialise('$F $S', { F: false, S: '0.5' }), 'false 0.5\n')
  const choice = '#if A == 2\ntwo\n#elif B\nb\n#else\nother\n#endif\n'
  t.equal(specialise(choice, { A: 2, B: 1 }), 'two\n')
  t.equal(specialise(choice, { A: 1, B: true }), 'b\n')
  for (const B of [0, false, '']) t.equal(specialise(choice, { A: 'x', B }), 'other\n')
  t.equal(specialise('#if !A\nno\n#endif\n#if A != 3\nnot 3\n#endif\n', { A: 0 }), 'no\nnot 3\n')
  t.equal(specialise('#if A\n#if B\nboth\n#else\na\n#endif\n#endif\nend', { A: 1, B: 0 }), 'a\nend\n')
  t.equal(
    specialise('#if A\n#if UNKNOWN == 1\n$ALSO\n#endif\n#endif\n', { A: 0 }),
    '',
    'what is left out is not looked at'
  )
})

t.test('pieces', async (t) => {
  const pieces = { one: '#include "two.wgsl"\none $N\n', two: 'two\n' }
  const text = '#include "one.wgsl"\n  #include "two.wgsl"\nmain\n'
  t.equal(specialise(text, { N: 1 }, pieces), 'two\none 1\nmain\n', 'each once')
  t.equal(specialise('#if N\n#include "nowhere.wgsl"\n#endif\n', { N: 0 }), '')
})

t.test('refused', async (t) => {
  const cases: [string, string, number][] = [
    ['x\n$N', "the define 'N' is missing", 2],
    ['#if N\n#endif', "the define 'N' is missing", 1],
    ['#if A\nx', '#if has no #endif', 1],
    ['#endif', '#endif has no #if', 1],
    ['#if A\n#else\n#else\n#endif', '#else comes after #else', 3],
    ['#if A > 2\n#endif', "the condition 'A > 2' is not understood", 1],
    ['#if\n#endif', "a condition begins with a define's name", 1],
    ['#pragma once', '#pragma is not known', 1],
    ['#include <x>', '#include takes "name.wgsl"', 1],
    ['\n#include "nowhere.wgsl"', "there is no shader 'nowhere'", 2]
  ]
  for (const [text, message, line] of cases) {
    t.throws(() => specialise(text, { A: 1 }), {
      code: 'VALIDATION_ERROR',
      message: `shader main.wgsl:${line}: ${message}`,
      details: { shader: 'main', line }
    })
  }
  t.throws(() => specialiseOf((name) => native().shaderText(name), 'nothing', {}), {
    code: 'VALIDATION_ERROR',
    message: "shader nothing: there is no shader 'nothing'"
  })
})

t.test('a key says all that a shader is made from', async (t) => {
  const variant = { shader: 'matmul', defines: { TYPE: 'Q4_0', ADD: true, TILE: 8 } }
  const key = keyOf(variant)
  t.equal(key, 'matmul ADD=true TILE=8 TYPE=Q4_0')
  t.same(variantOf(key), { shader: 'matmul', defines: { TYPE: 'Q4_0', ADD: 'true', TILE: '8' } })
  t.equal(keyOf({ shader: 'matmul', defines: { TILE: 8, TYPE: 'Q4_0', ADD: true } }), key, 'in any order')
})

t.test('files of shaders/', async (t) => {
  const files = readdirSync('shaders').filter((name) => name.endsWith('.wgsl'))
  const names = files.map((name) => name.slice(0, -5)).sort()
  t.same(native().shaderNames(), names, 'each is embedded')
  t.same(Object.keys(shaderTexts), names, 'and in the module for pages')
  for (const name of files) {
    const text = readFileSync(`shaders/${name}`, 'utf8')
    t.equal(native().shaderText(name.slice(0, -5)), text)
    t.equal(shaderTexts[name.slice(0, -5)], text)
    t.match(text, /^\/\/ /, `${name} begins with what it is`)
    if (!text.includes('@compute')) continue
    const bindings = bindingsOf(text).map(({ binding }) => binding)
    const declared = [...text.matchAll(/@binding\((\d+)\)/g)].map(([, index]) => Number(index))
    t.same(bindings, declared, `${name}: each binding is on one line as the layout is read from it`)
    t.ok(bindings.includes(0) && bindingsOf(text).some((one) => one.type === 'uniform'), `${name} has params`)
    const [header] = /^(\/\/.*\n)+/.exec(text)!
    for (const part of [/bindings/i, /dispatch/i, /num/i]) t.match(header, part, `${name}: the header has ${part}`)
  }
})

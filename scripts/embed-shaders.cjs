// The files of shaders/ as C++ source (the table of csrc/napi/shader_table.h). Both builds run it, with a path in their own folder.
//   node scripts/embed-shaders.cjs OUT.cpp    writes it
//   node scripts/embed-shaders.cjs --list     prints the files that it is made of, one a line
const { readdirSync, readFileSync, writeFileSync } = require('node:fs')
const { join } = require('node:path')

const names = readdirSync(join(__dirname, '..', 'shaders'))
  .filter((name) => name.endsWith('.wgsl'))
  .sort()

/** A raw string literal; compilers limit the length of one piece. */
const literal = (text) => (text.match(/[\s\S]{1,8000}/g) ?? ['']).map((piece) => `R"wgsl(${piece})wgsl"`).join('\n')

function source() {
  const texts = names.map((name) => readFileSync(join(__dirname, '..', 'shaders', name), 'utf8'))
  const constants = texts.map((text, i) => `const char text_${i}[] = ${literal(text)};`)
  const rows = names.map((name, i) => `    {"${name.slice(0, -5)}", text_${i}, sizeof text_${i} - 1},`)
  return `#include "napi/shader_table.h"

namespace tmoe {

namespace {

${constants.join('\n')}
const ShaderFile files[] = {
${rows.join('\n')}
};

}  // namespace

ShaderTable embedded_shaders() { return {files, sizeof files / sizeof files[0]}; }

}  // namespace tmoe
`
}

const [argument] = process.argv.slice(2)
if (argument === '--list') for (const name of names) console.log(`shaders/${name}`)
else writeFileSync(argument, source())

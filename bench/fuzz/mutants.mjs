// Faults that are planted one at a time: what each target has to notice. `file`: of csrc/, or of dist/esm/.
export const mutants = [
  {
    name: 'an array in a GGUF header may be longer than the file',
    target: 'gguf',
    file: 'csrc/core/gguf_header.cpp',
    from: 'if (count > left() / each) {',
    to: 'if (false) {',
    inputs: 30_000
  },
  {
    name: 'a tensor of a GGUF file may end behind it',
    target: 'gguf',
    file: 'csrc/core/gguf_header.cpp',
    from: 'end > file_.file_bytes_',
    to: 'end > UINT64_MAX - 1',
    inputs: 30_000
  },
  {
    name: "a trace's records may be cut off",
    target: 'replay',
    file: 'csrc/core/store/trace.cpp',
    from: 'next > trace.count ?',
    to: 'next > trace.count + 9 ?',
    inputs: 30_000
  },
  {
    name: "a journal's record may go over the one behind it",
    target: 'journal',
    file: 'journal/frame.js',
    from: 'next >= 0 && next < end',
    to: 'false',
    inputs: 3000
  },
  {
    name: 'a manifest is not checked against its schema',
    target: 'manifest',
    file: 'checkpoint/manifest.js',
    from: 'if (result.success)',
    to: 'if (true) return raw; if (result.success)',
    inputs: 2000
  },
  {
    name: 'a tensor of a safetensors file may lie behind it',
    target: 'header',
    file: 'safetensors/header.js',
    from: 'end > data.bytes',
    to: 'false',
    inputs: 3000
  },
  {
    name: 'a file of tiers is not checked against its schema',
    target: 'tiers',
    file: 'checkpoint/tiers-file.js',
    from: 'fileSchema.safeParse(raw)',
    to: '{ success: true, data: raw }',
    inputs: 2000
  },
  {
    name: 'a special token takes what follows with it',
    target: 'texts',
    file: 'model/whole-tokens.js',
    from: 'at += match.text.length',
    to: 'at += match.text.length + 1',
    inputs: 1000
  }
]
